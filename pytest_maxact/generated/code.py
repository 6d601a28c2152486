"""Programs: Python that parses, and one small function at a time in other languages, queries and shell scripts."""

from __future__ import annotations

import keyword
from collections.abc import Iterator

from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.english import Writer, capital, plural
from pytest_maxact.generated.words import DESCRIBING, GENERAL, TOPICS, VERBS

NOUNS = tuple(
    dict.fromkeys(
        word
        for word in (*GENERAL, *(thing for topic in TOPICS for thing in topic.things))
        if word.isascii() and not keyword.iskeyword(word) and len(word) < 10
    )
)
MODULES = tuple(
    "math json os re sys time random logging pathlib itertools functools collections typing csv ast enum heapq bisect "
    "string shutil socket struct textwrap threading uuid zlib statistics fractions decimal datetime hashlib".split()
)


class Coder:
    """Names and expressions of one program; expressions are read alike by most languages."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.names = chance.some(NOUNS, 6)

    def name(self) -> str:
        """A variable of the program."""
        return self.chance.pick(self.names)

    def verb(self) -> str:
        """A verb that is no word of the language."""
        verb = self.chance.pick(VERBS)
        return f"{verb}_{self.name()}" if keyword.iskeyword(verb) or self.chance.odds(50) else verb

    def number(self) -> str:
        """A literal."""
        pick = self.chance.below(4)
        return (str(self.chance.below(10)), str(self.chance.below(10_000)), f"0.{self.chance.below(1000):03d}", "1")[pick]

    def atom(self) -> str:
        """A variable, an item, a member, a call or a number."""
        pick = self.chance.below(7)
        if pick < 3:
            return self.name()
        if pick == 3:
            return f"{self.name()}[{self.chance.below(9)}]"
        if pick == 4:
            return f"{self.name()}.{self.chance.pick(NOUNS)}"
        return f"{self.verb()}({self.name()})" if pick == 5 else self.number()

    def sum(self, depth: int = 2) -> str:
        """An arithmetic expression."""
        if depth == 0 or self.chance.odds(35):
            return self.atom()
        left, right = self.sum(depth - 1), self.sum(depth - 1)
        text = f"{left} {self.chance.pick(('+', '-', '*', '/', '%'))} {right}"
        return f"({text})" if self.chance.odds(30) else text

    def test(self) -> str:
        """A condition."""
        return f"{self.name()} {self.chance.pick(('<', '>', '==', '!=', '<=', '>='))} {self.sum(1)}"


def _python_value(coder: Coder) -> str:
    chance, pick = coder.chance, coder.chance.below(11)
    if pick < 4:
        return coder.sum()
    if pick == 4:
        return f"[{coder.sum(1)} for {coder.name()} in {coder.name()} if {coder.test()}]"
    if pick == 5:
        return "{" + ", ".join(f'"{chance.pick(NOUNS)}": {coder.atom()}' for _ in range(chance.between(1, 4))) + "}"
    if pick == 6:
        return f'f"{chance.pick(NOUNS)} {{{coder.name()}}} {{{coder.sum(1)}:.2f}}"'
    if pick == 7:
        return f"lambda {coder.name()}: {coder.sum(1)}"
    if pick == 8:
        return f"sorted({coder.name()}, key=lambda {chance.pick(NOUNS)}: {coder.atom()})[:{chance.below(20)}]"
    if pick == 9:
        return f"{coder.atom()} if {coder.test()} else {coder.atom()}"
    return f'"{Writer(chance).title()}".{chance.pick(("split", "lower", "upper", "strip", "title"))}()'


def _python_block(coder: Coder, indent: str, depth: int) -> str:
    chance = coder.chance
    lines = []
    for _ in range(chance.between(1, 3)):
        pick = chance.below(9) if depth else chance.below(4)
        if pick < 3:
            lines.append(f"{indent}{coder.name()} = {_python_value(coder)}\n")
        elif pick == 3:
            lines.append(f"{indent}{coder.name()}.{chance.pick(VERBS[:6])}_{chance.pick(NOUNS)}({coder.sum(1)})\n")
        elif pick == 4:
            lines.append(f"{indent}if {coder.test()}:\n{_python_block(coder, indent + '    ', depth - 1)}")
        elif pick == 5:
            lines.append(f"{indent}for {coder.name()} in {coder.atom()}:\n{_python_block(coder, indent + '    ', depth - 1)}")
        elif pick == 6:
            body = _python_block(coder, indent + "    ", depth - 1)
            error = chance.pick(("ValueError", "KeyError", "OSError", "TypeError"))
            lines.append(f"{indent}try:\n{body}{indent}except {error}:\n{indent}    {coder.name()} = None\n")
        elif pick == 7:
            lines.append(f"{indent}while {coder.test()}:\n{indent}    {coder.name()} -= {coder.number()}\n")
        else:
            lines.append(f"{indent}# {Writer(chance).sentence()}\n{indent}assert {coder.test()}, {coder.name()}\n")
    return "".join(lines)


def python(chance: Chance, size: int) -> Iterator[str]:
    """Pieces of a Python module, or an expression where `size` bytes are no more."""
    if size < 24:
        coder = Coder(chance)
        while True:
            yield f"{coder.sum(1)}\n"
    while True:
        yield _python_piece(chance)


def _python_piece(chance: Chance) -> str:
    coder, pick = Coder(chance), chance.below(14)
    if pick < 4:
        return f"{chance.pick(NOUNS)} = {_python_value(coder)}\n"
    if pick == 4:
        module = chance.pick(MODULES)
        return chance.pick((f"import {module}\n", f"from {module} import {coder.name()} as {chance.pick(NOUNS)}\n"))
    if pick == 5:
        return f"{chance.pick(NOUNS)}.{coder.verb()}({coder.sum()}, {chance.pick(NOUNS)}={_python_value(coder)})\n"
    if pick == 6:
        return f"# {Writer(chance).sentence()}\n"
    if pick == 7:
        return f"{chance.pick(NOUNS)}, {chance.pick(NOUNS)} = {coder.atom()}, {coder.sum()}\n"
    if pick == 8:
        return f"for {coder.name()} in range({chance.between(1, 99)}):\n{_python_block(coder, '    ', 1)}"
    name, arguments = coder.verb(), ", ".join(dict.fromkeys(coder.names[: chance.between(0, 4)]))
    document = f'    """{Writer(chance).sentence()}"""\n' * chance.odds(40)
    if pick == 9:
        title = capital(chance.pick(DESCRIBING)) + capital(chance.pick(NOUNS))
        fields = "".join(f"    {field}: {chance.pick(('int', 'str', 'float', 'bool'))}\n" for field in coder.names[:3])
        return (
            f"@dataclass\nclass {title}:\n{document}{fields}\n    def {name}(self):\n{_python_block(coder, '        ', 1)}\n\n"
        )
    prefix = "async " * chance.odds(10)
    return (
        f"{prefix}def {name}({arguments}):\n{document}{_python_block(coder, '    ', 2)}    return {_python_value(coder)}\n\n\n"
    )


def _statements(coder: Coder, let: str, stop: str, indent: str) -> str:
    chance = coder.chance
    return "".join(f"{indent}{let}{coder.name()} = {coder.sum()}{stop}\n" for _ in range(chance.between(1, 3)))


def program(chance: Chance, size: int) -> Iterator[str]:
    """Functions, queries or rules in one of fourteen languages; `size` is no matter."""
    language = chance.below(14)
    while True:
        yield _program_piece(chance, language)


def _program_piece(chance: Chance, language: int) -> str:
    coder = Coder(chance)
    first, second, third = coder.names[:3]
    name, test = chance.pick(VERBS) + capital(first), coder.test()
    if language == 0:
        body = _statements(coder, "const ", ";", "  ")
        return (
            f"export function {name}({first}, {second}) {{\n"
            f"{body}  if ({test}) return {coder.sum()};\n"
            f"  return {{ {first} }};\n"
            f"}}\n\n"
        )
    if language == 1:
        body = _statements(coder, "double ", ";", "    ")
        return (
            f"static int {name}(const int *{first}, size_t {second}) {{\n"
            f"{body}    if ({test}) {{ return -1; }}\n"
            f"    return 0;\n"
            f"}}\n\n"
        )
    if language == 2:
        body = _statements(coder, "let ", ";", "    ")
        return (
            f"pub fn {coder.verb()}({first}: &[u8], {second}: usize) -> Option<u32> {{\n"
            f"{body}    if {test} {{ return None; }}\n"
            f"    Some({second} as u32)\n"
            f"}}\n\n"
        )
    if language == 3:
        body = _statements(coder, "var ", "", "\t")
        return (
            f"func {name}({first} []int, {second} int) error {{\n"
            f"{body}\tif {test} {{\n"
            f"\t\treturn Err{capital(second)}\n"
            f"\t}}\n"
            f"\treturn nil\n"
            f"}}\n\n"
        )
    if language == 4:
        body = _statements(coder, "var ", ";", "        ")
        return (
            f"    private final int {first} = {coder.number()};\n\n"
            f"    @Override\n"
            f"    public void {name}(String {second}) {{\n"
            f"{body}    }}\n\n"
        )
    if language == 5:
        body = _statements(coder, "local ", "", "  ")
        return f"{first}.{second} = function({third})\n{body}  if {test.replace('!=', '~=')} then return {third} end\nend\n\n"
    if language == 6:
        body = _statements(coder, "", "", "  ")
        return (
            f"{capital(first)}.{chance.pick(('each', 'map', 'select', 'reject'))} do |{second}|\n"
            f"{body}  puts {second} unless {test}\n"
            f"end\n\n"
        )
    if language == 7:
        tables = f"{plural(first)} AS a JOIN {plural(second)} AS b ON a.{second}_id = b.id"
        return (
            f"{chance.pick(('SELECT', 'EXPLAIN SELECT', 'CREATE VIEW v AS SELECT'))} a.{first}, COUNT(b.{third}) FROM {tables} "
            f"WHERE a.{third} > {coder.number()} GROUP BY a.{first} HAVING COUNT(*) < {chance.below(500)} ORDER BY 2 "
            f"DESC LIMIT {chance.below(100)};\n"
        )
    if language == 8:
        command = chance.pick(
            ("grep -rn", "find . -name", "sed -i", "awk -F,", "curl -sL", "tar xzf", "chmod +x", "git log", "echo")
        )
        file = f"{second}.{chance.pick(('txt', 'log', 'sh', 'csv'))}"
        return f"{command} '{first}' {file} | sort | uniq -c | head -n {chance.below(90)} > \"${third.upper()}\" || exit 1\n"
    if language == 9:
        return (
            f"{name} :: [Int] -> Maybe Int\n"
            f"{name} [] = Nothing\n"
            f"{name} ({first[0]}:xs) = Just ({first[0]} + sum (map (*{chance.below(99)}) xs))\n\n"
        )
    if language == 10:
        return (
            f"(defun {chance.pick(VERBS)}-{first} ({second} {third})\n"
            f"  (if (> {second} {coder.number()})\n"
            f"      (* {third} {coder.number()})\n"
            f"    (list '{first} {second})))\n\n"
        )
    if language == 11:
        sizes = "".join(
            f"  {side}: {chance.between(1, 64)}px;\n" for side in chance.some(("margin", "padding", "width", "top", "gap"), 2)
        )
        return f".{first}-{second}:hover {{\n  color: #{chance.bits(24):06x};\n{sizes}}}\n\n"
    if language == 12:
        left, right = chance.between(1, 80), chance.between(1, 80)
        return (
            f"@@ -{left},7 +{right},9 @@ {name}\n"
            f"-    {first} = {coder.sum()}\n"
            f"+    {first} = {coder.sum()}\n"
            f"+    {second} += {coder.number()}\n"
        )
    return (
        f"{first}.o: {first}.c {second}.h\n"
        f"\t$(CC) -O2 -c $< -o $@\n\n"
        f"{chance.pick(VERBS)}: {first}.o\n"
        f"\t./{first} --{second}={coder.number()}\n\n"
    )
