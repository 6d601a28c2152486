"""Text that is little of a language: markup, numbers, identifiers, symbols and noise."""

from __future__ import annotations

import base64
import hashlib

from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.code import NOUNS
from pytest_maxact.generated.data import clock, day
from pytest_maxact.generated.english import Writer, capital
from pytest_maxact.generated.words import CITIES, DAYS, FUNCTION_WORDS, GENERAL, MONTHS, NAMES, SURNAMES, VERBS

TAGS = ("p", "div", "span", "li", "h1", "h2", "section", "article", "em", "strong", "td", "blockquote", "nav", "footer", "code")
UNITS = tuple("km m cm mm kg g mg t l ml s ms min h °C °F K kWh MB GB Hz dB mol V A Ω % ha ft lb oz mph Pa bar lm".split())
EMOJI = tuple(
    "😀 😂 🥲 😍 🤔 😴 🤖 👻 👍 👏 🙏 💪 🧠 👀 🐶 🐱 🦊 🐢 🐙 🦋 🌱 "
    "🌵 🌸 🍎 🍕 🍜 ☕ 🍺 ⚽ 🎸 🎲 🚗 🚲 ✈️ 🚀 ⌚ 💡 🔥 ⭐ "
    "🌈 ❄️ 🌊 🏠 🏔️ 💰 📚 ✏️ 📎 🔒 🔔 "
    "❤️ 💔 ✅ ❌ ⚠️ ❓ ‼️ ♻️ 🇯🇵 🇧🇷 🇰🇪 👩‍🔬 👨‍🍳 🏳️‍🌈".split()
)
SIGNS = tuple(
    "→ ← ↑ ↓ ↔ ⇒ ⇔ ∀ ∃ ∅ ∈ ∉ ⊂ ∪ ∩ ∧ ∨ ¬ ≠ ≤ ≥ ≈ ≡ ± × ÷ √ ∞ ∂ ∇ ∑ ∏ ∫ ° § ¶ † ‡ • ‣ … ‰ № ™ © ® € £ ¥ ₹ ₽ ₿ ½ ¼ ¾ "
    "² ³ ¹ ⁿ α β γ δ λ μ π σ ω Δ Σ Ω ■ □ ▲ △ ▼ ◆ ◇ ○ ● ◎ ★ ☆ ♠ ♣ ♥ ♦ ♪ ♫ ☀ ☁ ☂ ☎ ✓ ✗ ✦ ❖ ➤ ⌘ ⌥ ⏎ ␣ 〒 ※ 「 」 『 』 【 】 "
    "《 》 〜 ・".split()
)
BLOCKS = tuple("─ │ ┌ ┐ └ ┘ ├ ┤ ┬ ┴ ┼ ═ ║ ╔ ╗ ╚ ╝ ░ ▒ ▓ █ ▀ ▄ ▌ ▐ ⠁ ⠃ ⠉ ⠙ ⠑".split())
FACES = tuple(":-) ;-) :( :D xD ^_^ (╯°□°)╯︵┻━┻ ¯\\_(ツ)_/¯ ʕ•ᴥ•ʔ <3 o_O >:[ :'( \\o/ -_- =^.^= (*_*)".split())
ASCII = tuple(
    "-= =- *** /// \\\\ ### ~~~ +++ ::: <<< >>> |-| [] {} () && || !! ?? -> => <= ;; ,, .. @@ $$ %% ^^ __ `` '' --".split()
)
KEYS = tuple("qwertyuiop asdfghjkl zxcvbnm".split())


def markup(chance: Chance) -> str:
    """A piece of Markdown, HTML, LaTeX, reStructuredText, wiki text, BBCode or SVG."""
    writer, form = Writer(chance), chance.below(12)
    word, other = writer.thing(), writer.thing()
    if form == 0:
        return f"{'#' * chance.between(1, 4)} {writer.title()}\n\n{writer.sentence()} See [{word}](#{other}).\n\n"
    if form == 1:
        tag = chance.pick(TAGS)
        return f'<{tag} class="{word}">{writer.sentence()}</{tag}>\n'
    if form == 2:
        return f'<a href="/{word}/{other}">{writer.title()}</a><br>\n'
    if form == 3:
        return (
            f"\\section{{{writer.title()}}}\n\\label{{sec:{word}}}\n{writer.sentence()} "
            f"\\emph{{{other}}}~\\cite{{{word}{chance.between(1900, 2030)}}}\n\n"
        )
    if form == 4:
        title = writer.title()
        return f"{title}\n{'=' * len(title)}\n\n{writer.sentence()}\n\n.. {word}:: {other}\n\n"
    if form == 5:
        return f"'''{capital(word)}''' is [[{other}]] {{{{{chance.pick(VERBS)}|{writer.quality()}}}}}. {writer.sentence()}\n"
    if form == 6:
        return f"> {writer.sentence()}\n>\n> — *{writer.name()}*\n\n"
    if form == 7:
        return f"- [{chance.pick(' x')}] **{word}**: `{other}` {writer.clause()}\n"
    if form == 8:
        place = f'x="{chance.below(500)}" y="{chance.below(500)}"'
        return f'<svg><rect {place} fill="#{chance.bits(24):06x}"/><text {place}>{word}</text></svg>\n'
    if form == 9:
        return f"[b]{writer.title()}[/b] [url={other}.html]{word}[/url] {writer.sentence()}\n"
    if form == 10:
        return f"```{chance.pick(('text', 'sh', 'python', 'diff'))}\n{word} --{other}\n```\n{writer.sentence()}\n\n"
    return (
        f"{writer.sentence()}[^{chance.between(1, 40)}] ~~{writer.clause()}~~ _{writer.quality()}_ "
        f"{word}<sup>{chance.between(1, 9)}</sup>\n"
    )


def numbers(chance: Chance) -> str:
    """Dates, times, amounts, measurements, lists of figures, numerals of several kinds, scores and coordinates."""
    form = chance.below(14)
    if form == 0:
        return f"{chance.pick(DAYS)}, {chance.between(1, 28)} {chance.pick(MONTHS)} {chance.between(1000, 2100)}\n"
    if form == 1:
        return f"{chance.pick(MONTHS)} {chance.between(1, 28)}, {clock(chance)} {chance.pick(('AM', 'PM', 'UTC', 'CET'))}\n"
    if form == 2:
        return f"{chance.pick(NOUNS)}: {chance.below(1000)}.{chance.below(1000):03d} {chance.pick(UNITS)}\n"
    if form == 3:
        return ", ".join(str(chance.between(-(10**4), 10**4)) for _ in range(chance.between(3, 9))) + "\n"
    if form == 4:
        return " ".join(f"{chance.below(1000) / 1000:.3f}" for _ in range(chance.between(3, 9))) + "\n"
    if form == 5:
        return f"{chance.pick('$€£¥₹')}{chance.between(1, 999)},{chance.below(1000):03d}.{chance.below(100):02d} "
    if form == 6:
        return f"+{chance.between(1, 99)} ({chance.below(1000):03d}) {chance.below(1000):03d}-{chance.below(10000):04d}\n"
    if form == 7:
        return f"{chance.pick(CITIES)} {chance.below(9)}:{chance.below(9)} {chance.pick(CITIES)}\n"
    if form == 8:
        return (
            f"{chance.below(90)}°{chance.below(60)}′{chance.below(60)}″{chance.pick('NS')} "
            f"{chance.below(180)}°{chance.below(60)}′E\n"
        )
    if form == 9:
        return f"{chance.between(1, 9)}.{chance.below(1000):03d}e{chance.between(-300, 300):+d} "
    if form == 10:
        return f"0x{chance.bits(32):08x} 0b{chance.bits(12):012b} 0o{chance.bits(9):o} "
    if form == 11:
        return "".join(chance.pick(("M", "D", "C", "L", "X", "V", "I", "iv", "ix", "ii")) for _ in range(3)) + ". "
    if form == 12:
        figures = chance.pick(("٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "〇一二三四五六七八九", "①②③④⑤⑥⑦⑧⑨", "０１２３４５６７８９"))
        return "".join(chance.pick(figures) for _ in range(chance.between(1, 6))) + " "
    part, whole = chance.between(1, 40), chance.between(41, 99)
    share = (2000 * part + whole) // (2 * whole)  # thousandths, rounded half up
    return f"{chance.pick(NOUNS)} {part}/{whole} ≈ {share // 10}.{share % 10}%\n"


def identifiers(chance: Chance) -> str:
    """Hashes, UUIDs, base64, addresses, paths, versions, keys and names in the cases that programs write."""
    form, word, other = chance.below(16), chance.pick(NOUNS), chance.pick(NOUNS)
    digest = hashlib.sha256(str(chance.bits(64)).encode())
    text = digest.hexdigest()
    if form == 0:
        return text[: chance.pick((7, 12, 32, 40, 64))] + "\n"
    if form == 1:
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:32]}\n"
    if form == 2:
        return base64.b64encode(digest.digest()[: chance.between(4, 32)]).decode() + "\n"
    if form == 3:
        return f"https://{word}.example/{other}/{chance.below(9999)}?{chance.pick(VERBS)}={text[:6]}\n"
    if form == 4:
        return f"{chance.pick(NAMES).lower()}.{chance.pick(SURNAMES).lower()}{chance.below(99)}@{word}.example\n"
    if form == 5:
        return f"/{word}/{other}/{chance.pick(VERBS)}_{chance.below(99)}.{chance.pick(('txt', 'c', 'png', 'so', 'yml'))}\n"
    if form == 6:
        return f"{chance.pick(VERBS)}{capital(word)}{capital(other)} "
    if form == 7:
        return f"{word.upper()}_{other.upper()}_{chance.below(100)} "
    if form == 8:
        return ".".join(str(chance.below(256)) for _ in range(4)) + f":{chance.below(65536)}\n"
    if form == 9:
        return ":".join(text[index : index + 2] for index in range(0, 12, 2)) + "\n"
    if form == 10:
        return f"{word}-{other}=={chance.below(30)}.{chance.below(30)}.{chance.below(30)}rc{chance.below(9)}\n"
    if form == 11:
        return f"{capital(word)}{capital(other)}::{chance.pick(VERBS)}<{capital(chance.pick(NOUNS))}> "
    if form == 12:
        return f"C:\\{capital(word)}\\{other}.dll\n"
    if form == 13:
        return f"#{word}{other} @{chance.pick(NAMES).lower()}_{chance.below(999)} "
    if form == 14:
        return f"urn:{word}:{day(chance)}:{text[:10].upper()}\n"
    return f"{chance.pick(VERBS)}-{word}-{text[:5]} "


def symbols(chance: Chance) -> str:
    """Emoji, signs, box drawing, faces, runs of ASCII marks, alone and between words."""
    form = chance.below(8)
    if form == 0:
        return "".join(chance.pick(EMOJI) for _ in range(chance.between(1, 5))) + " "
    if form == 1:
        return f"{chance.pick(Writer(chance).topic.things)} {chance.pick(EMOJI)} {chance.pick(GENERAL)}{chance.pick(EMOJI)}\n"
    if form == 2:
        return " ".join(chance.pick(SIGNS) for _ in range(chance.between(1, 6))) + "\n"
    if form == 3:
        width = chance.between(2, 9)
        return f"┌{'─' * width}┐\n│{chance.pick(NOUNS)[:width].center(width)}│\n└{'─' * width}┘\n"
    if form == 4:
        return "".join(chance.pick(BLOCKS) for _ in range(chance.between(2, 12))) + "\n"
    if form == 5:
        return f"{chance.pick(FACES)} "
    if form == 6:
        return "".join(chance.pick(ASCII) for _ in range(chance.between(1, 4))) + chance.pick((" ", "\n"))
    return f"{chance.pick(SIGNS)} {Writer(chance).title()} {chance.pick(SIGNS)}\n"


def noise(chance: Chance) -> str:
    """Damaged text: slips of the keyboard, bad scans, wrong encodings, capitals, stutter, shuffled words, mashed keys."""
    form, words = chance.below(9), Writer(chance).sentence().split()
    if form == 0:
        return " ".join(_slip(chance, word) for word in words) + " "
    if form == 1:
        scanned = " ".join(words).replace("rn", "m").replace("l", "1").replace("o", "0")
        return scanned.replace("t", "†" if chance.odds(20) else "t") + "-\n"
    if form == 2:
        return capital(" ".join(words)).replace("e", "é").replace("a", "ä").encode().decode("latin-1") + " "
    if form == 3:
        return " ".join(word.upper() if chance.odds(50) else word.lower() for word in words) + chance.pick(
            ("!!!", "???", "…", "!!1")
        )
    if form == 4:
        return " ".join(f"{word[0]}-{word}" if chance.odds(30) else word for word in words) + " "
    if form == 5:
        return " ".join(chance.shuffled(words)) + " "
    if form == 6:
        return "".join(chance.pick(chance.pick(KEYS)) for _ in range(chance.between(4, 20))) + " "
    if form == 7:
        return "".join(word.strip(".,") for word in words) + "\n"
    return " ".join(chance.pick(FUNCTION_WORDS + VERBS + NOUNS) for _ in range(chance.between(3, 12))) + " "


def _slip(chance: Chance, word: str) -> str:
    if len(word) < 4 or chance.odds(50):
        return word
    place, kind = chance.between(1, len(word) - 2), chance.below(3)
    if kind == 0:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return word[:place] + word[place + 1 :] if kind == 1 else word[: place + 1] + word[place:]
