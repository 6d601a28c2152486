"""English from a grammar: sentences about one topic each, and the kinds of text that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.words import (
    ADVERBS,
    CITIES,
    DAYS,
    DESCRIBING,
    FUNCTION_WORDS,
    GENERAL,
    MONTHS,
    NAMES,
    NUMERALS,
    OPENERS,
    RELATIONS,
    SURNAMES,
    TOPICS,
    VERBS,
)

PAST_TENSES = dict(
    pair.split(":")
    for pair in (
        "steal:stole hide:hid write:wrote rewrite:rewrote read:read draw:drew feed:fed weave:wove wear:wore shear:sheared "
        "breed:bred light:lit teach:taught freeze:froze rebuild:rebuilt submit:submitted admit:admitted transfer:transferred "
        "hug:hugged ban:banned debug:debugged map:mapped plan:planned hum:hummed worship:worshipped label:labelled "
        "distil:distilled"
    ).split()
)
PLURALS = dict(
    pair.split(":")
    for pair in (
        "knife:knives leaf:leaves wolf:wolves thief:thieves scarf:scarves life:lives potato:potatoes tomato:tomatoes "
        "man:men woman:women child:children foot:feet tooth:teeth sheep:sheep deer:deer evidence:proofs spokesman:spokesmen "
        "luggage:bags homework:exercises"
    ).split()
)


def capital(text: str) -> str:
    """The text with its first letter raised, the others as they are."""
    return text[:1].upper() + text[1:]


@cache
def plural(noun: str) -> str:
    """More than one of a noun."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith(("s", "sh", "ch", "x", "z")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeou" else noun + "s"


@cache
def past(verb: str) -> str:
    """The past tense of a verb."""
    if verb in PAST_TENSES:
        return PAST_TENSES[verb]
    if verb.endswith("y") and verb[-2] not in "aeou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


@cache
def article(phrase: str) -> str:
    """The phrase with its indefinite article."""
    vowel = phrase[0].lower() in "aeiou" and not phrase.lower().startswith(("uni", "unan", "use", "usu", "eu", "one"))
    return f"{'an' if vowel else 'a'} {phrase}"


class Writer:
    """Writes about one topic, which chance chooses."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.topic = chance.pick(TOPICS)

    def thing(self) -> str:
        """A noun, mostly of the topic."""
        return self.chance.pick(self.topic.things if self.chance.odds(80) else GENERAL)

    def quality(self) -> str:
        """An adjective, mostly of the topic."""
        return self.chance.pick(self.topic.qualities if self.chance.odds(70) else DESCRIBING)

    def act(self) -> str:
        """A transitive verb of the topic."""
        return self.chance.pick(self.topic.acts)

    def name(self) -> str:
        """A person's name, sometimes with the family's."""
        given = self.chance.pick(NAMES)
        return f"{given} {self.chance.pick(SURNAMES)}" if self.chance.odds(30) else given

    def who(self) -> str:
        """Someone who can act, in the singular."""
        pick = self.chance.below(5)
        if pick < 2:
            return self.name()
        person = self.chance.pick(self.topic.people)
        return (f"the {person}", article(f"{self.quality()} {person}"), f"our {person}")[pick - 2]

    def what(self, *, single: bool = False) -> str:
        """Something that can be acted on, in the singular or, where not said otherwise, sometimes several."""
        thing, pick = self.thing(), self.chance.below(8)
        if pick < 3:
            return f"the {thing}"
        if pick == 3:
            return f"the {self.quality()} {thing}"
        if pick == 4:
            return article(f"{self.quality()} {thing}")
        if pick == 5 and not single:
            return f"{self.chance.pick(NUMERALS)} {plural(thing)}"
        if pick == 6:
            return f"the {thing} {self.chance.pick(RELATIONS)} the {self.thing()}"
        return f"{self.chance.pick(('every', 'this', 'that', 'another', 'each', 'no', 'her', 'his', 'their'))} {thing}"

    def where(self) -> str:
        """A place, with its preposition."""
        place = self.chance.pick(self.topic.places)
        pick = self.chance.below(3)
        return (f"near the {place}", f"outside the {place}", f"not far from {self.chance.pick(CITIES)}")[pick]

    def when(self) -> str:
        """A time."""
        chance = self.chance
        pick = chance.below(4)
        if pick == 0:
            return f"on {chance.pick(DAYS)}"
        if pick == 1:
            return f"in {chance.pick(MONTHS)} {chance.between(1790, 2089)}"
        if pick == 2:
            return f"{chance.pick(NUMERALS)} {chance.pick(('days', 'weeks', 'hours', 'years'))} later"
        return f"at {chance.between(1, 12)}:{chance.between(0, 59):02d}"

    def clause(self) -> str:
        """A main clause in the past tense, without capital and full stop."""
        pick, act = self.chance.below(12), past(self.act())
        if pick < 3:
            return f"{self.who()} {act} {self.what()}"
        if pick == 3:
            return f"{self.who()} {self.chance.pick(ADVERBS)} {act} {self.what()}"
        if pick == 4:
            return f"{self.who()} {act} {self.what()} {self.where()}"
        if pick == 5:
            return f"{self.what(single=True)} was {self.quality()}"
        if pick == 6:
            return f"{self.who()} {act} {self.what()} and {past(self.act())} {self.what()}"
        if pick == 7:
            return f"nobody {act} {self.what()} {self.when()}"
        if pick == 8:
            return f"there was {article(self.quality())} {self.thing()} {self.where()}"
        if pick == 9:
            return f"it took {self.chance.pick(NUMERALS)} hours to {self.act()} {self.what()}"
        if pick == 10:
            return f"{self.who()} wanted to {self.act()} {self.what()}"
        return f"{plural(self.thing())} seemed {self.quality()} to {self.who()}"

    def sentence(self) -> str:
        """A statement."""
        chance, pick = self.chance, self.chance.below(14)
        if pick < 4:
            return capital(self.clause()) + "."
        if pick == 4:
            return f"{chance.pick(OPENERS)}, {self.clause()}."
        if pick == 5:
            return f"{capital(self.clause())}, {chance.pick(('but', 'and', 'so', 'yet', 'while'))} {self.clause()}."
        if pick == 6:
            return (
                f"{chance.pick(('When', 'Because', 'Although', 'Before', 'As', 'Since', 'After'))} {self.clause()}, "
                f"{self.clause()}."
            )
        if pick == 7:
            return (
                f"{capital(plural(self.thing()))} are {self.quality()}, and {plural(self.topic.people[0])} {self.act()} them."
            )
        if pick == 8:
            return f"{capital(self.quality())} {plural(self.thing())} rarely {self.act()} {self.what()}."
        if pick == 9:
            return (
                f"“{capital(self.clause())},” {chance.pick(('said', 'wrote', 'insisted', 'shouted', 'thought'))} {self.who()}."
            )
        if pick == 10:
            return self.question()
        if pick == 11:
            return (
                f"{capital(self.what(single=True))}: {self.quality()}, {self.quality()}, and {chance.pick(ADVERBS)} "
                f"{self.quality()}."
            )
        if pick == 12:
            return f"{capital(self.when())}, {self.clause()} ({self.clause()})."
        return f"{capital(self.chance.pick(RELATIONS))} {self.what()}, {self.clause()}!"

    def question(self) -> str:
        """A question."""
        pick = self.chance.below(5)
        if pick == 0:
            return f"Why did {self.who()} {self.act()} {self.what()}?"
        if pick == 1:
            return f"Who {past(self.act())} {self.what()}?"
        if pick == 2:
            return f"How {self.quality()} is {self.what(single=True)}?"
        if pick == 3:
            return f"Can {self.who()} {self.act()} {self.what()} {self.where()}?"
        return f"What happens when {self.clause()}?"

    def order(self) -> str:
        """An instruction."""
        pick, verb = self.chance.below(4), self.act()
        if pick == 0:
            return f"{capital(verb)} {self.what()}."
        if pick == 1:
            return f"{capital(verb)} {self.what()} until {self.what(single=True)} is {self.quality()}."
        if pick == 2:
            return f"Never {verb} {self.what()} {self.where()}."
        return f"{capital(self.chance.pick(ADVERBS))} {verb} {self.what()}, then {self.act()} {self.what()}."

    def paragraph(self) -> str:
        """Two to five sentences."""
        return " ".join(self.sentence() for _ in range(self.chance.between(2, 5)))

    def title(self) -> str:
        """A heading."""
        pick = self.chance.below(4)
        if pick == 0:
            return f"{capital(self.thing())} and {self.thing()}"
        if pick == 1:
            return f"The {self.quality()} {self.thing()}"
        if pick == 2:
            return f"{capital(self.quality())} {plural(self.thing())}"
        return f"How to {self.act()} {self.what()}"


def prose(chance: Chance, size: int) -> Iterator[str]:
    """Paragraphs about one topic; `size` is no matter."""
    writer = Writer(chance)
    while True:
        yield writer.paragraph() + chance.pick((" ", "\n\n"))


def dialogue(chance: Chance) -> str:
    """A few turns of a conversation, as a play, an interview, a chat room or a novel writes them."""
    writer = Writer(chance)
    names, form = (writer.name(), writer.name()), chance.below(5)
    lines = []
    for turn in range(chance.between(2, 6)):
        said = chance.pick((writer.sentence, writer.question, writer.order, writer.question))()
        if chance.odds(20):
            said = f"{chance.pick(('Well', 'No', 'Yes', 'Oh', 'Hm', 'Listen', 'Really', 'Sure', 'Please', 'Wait'))}… {said}"
        name = names[turn % 2]
        time = f"{chance.between(0, 23):02d}:{chance.between(0, 59):02d}"
        forms = (
            f"{name.upper()}. {said}",
            f"— {said}",
            f"<{name.lower()}> {said}",
            f"{name}: {said}",
            f"[{time}] {name}: {said}",
        )
        lines.append(forms[form])
    return "\n".join(lines) + "\n\n"


def chat(chance: Chance) -> str:
    """A user's request and an assistant's answer, in one of the shapes in which they are written down."""
    writer = Writer(chance)
    form, wish, reply = chance.below(5), chance.below(4), chance.below(3)
    if wish == 0:
        asked = writer.question()
    elif wish == 1:
        asked = f"{writer.order()} Keep it under {chance.between(2, 200)} words."
    elif wish == 2:
        asked = f"{capital(writer.act())} this for me: {writer.what()}, {writer.what()}, {writer.what()}."
    else:
        asked = f"hey, {writer.question().lower()} {chance.pick(('thx', 'asap pls', 'any ideas', 'help'))}"
    if reply == 0:
        answer = writer.paragraph()
    else:
        steps = "\n".join(f"{number}. {writer.order()}" for number in range(1, chance.between(3, 6)))
        answer = f"{writer.sentence() if reply == 1 else f'**{writer.title()}**'}\n\n{steps}"
    return (
        f"User: {asked}\nAssistant: {answer}\n",
        f"### Instruction:\n{asked}\n\n### Response:\n{answer}\n\n",
        f"Q: {asked}\nA: {answer}\n\n",
        f"{asked}\n\n{answer}\n\n---\n",
        f"Human: {asked}\n\nAI: {answer}\n\n",
    )[form]


def lists(chance: Chance) -> str:
    """A list: steps, things to buy, definitions, names, an outline."""
    writer, form, count = Writer(chance), chance.below(7), chance.between(3, 9)
    if form == 0:
        items = [f"{number}. {writer.order()}" for number in range(1, count + 1)]
    elif form == 1:
        items = [
            f"- {chance.between(1, 900)} {chance.pick(('g', 'ml', 'pcs', 'kg', 'boxes of'))} {writer.thing()}"
            for _ in range(count)
        ]
    elif form == 2:
        items = [f"{capital(writer.thing())}: {writer.clause()}." for _ in range(count)]
    elif form == 3:
        items = [f"* {writer.quality()} {writer.thing()}\n  * {writer.thing()}\n  * {writer.thing()}" for _ in range(count)]
    elif form == 4:
        items = [f"{chr(97 + number)}) {writer.what()}" for number in range(count)]
    elif form == 5:
        items = [", ".join(chance.pick((writer.thing, writer.quality, writer.act, writer.name))() for _ in range(count))]
    else:
        items = [chance.pick(GENERAL + VERBS + DESCRIBING + FUNCTION_WORDS + ADVERBS) for _ in range(count)]
    return f"{writer.title()}\n" * chance.odds(40) + "\n".join(items) + "\n\n"


def register(chance: Chance) -> str:
    """A text of some trade: a letter, news, minutes, a clause, a review, verse, an abstract, an advertisement, a proverb."""
    writer, form = Writer(chance), chance.below(10)
    if form == 0:
        return (
            f"Dear {writer.name()},\n\n{writer.sentence()} {writer.sentence()} {writer.question()}\n\n"
            f"{chance.pick(('Kind regards', 'Yours sincerely', 'Love', 'Best wishes', 'With thanks'))},\n{writer.name()}\n\n"
        )
    if form == 1:
        place, count = chance.pick(CITIES), chance.between(3, 5000)
        return (
            f"{place.upper()} — {capital(writer.who())} will {writer.act()} {count} {plural(writer.thing())}. "
            f"{writer.paragraph()}\n\n"
        )
    if form == 2:
        return (
            f"Minutes, {chance.between(1, 28)} {chance.pick(MONTHS)}. Present: {writer.name()}, {writer.name()}, "
            f"{writer.name()}. "
            f"{writer.sentence()} Agreed: {writer.order()} Carried {chance.between(3, 40)} to {chance.below(20)}.\n\n"
        )
    if form == 3:
        return (
            f"{chance.between(1, 40)}.{chance.between(1, 9)} The {writer.thing()} shall not {writer.act()} any "
            f"{writer.thing()} "
            f"unless {writer.clause()}, notwithstanding {writer.what()}.\n"
        )
    if form == 4:
        stars = chance.between(1, 5)
        return (
            f"{'★' * stars}{'☆' * (5 - stars)} {capital(writer.quality())}! {writer.sentence()} Would {writer.act()} again.\n\n"
        )
    if form == 5:
        verse = [f"{capital(writer.quality())} {writer.thing()}, {writer.quality()} {writer.thing()}," for _ in range(3)]
        return "\n".join([*verse, f"and {writer.clause()}."]) + "\n\n"
    if form == 6:
        share = chance.between(1, 99)
        return (
            f"We study {plural(writer.thing())} that {writer.act()} {plural(writer.thing())}. Of "
            f"{chance.between(20, 9000)} cases, "
            f"{share}% were {writer.quality()} (p < 0.0{chance.between(1, 5)}). {writer.sentence()}\n\n"
        )
    if form == 7:
        return f"{writer.title().upper()}! Only ${chance.between(1, 900)}.{chance.between(0, 99):02d}. {writer.order()}\n\n"
    if form == 8:
        subject = capital(writer.thing())
        return f"Subject: {subject} {chance.pick(DAYS)}\nFrom: {writer.name()}\nTo: {writer.name()}\n\n{writer.paragraph()}\n\n"
    return f"{capital(writer.act())} no {writer.thing()} before the {writer.thing()} is {writer.quality()}.\n"
