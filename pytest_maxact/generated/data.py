"""Data as programs write it: JSON, tables, configuration and logs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.code import MODULES, NOUNS
from pytest_maxact.generated.english import Writer, capital, plural
from pytest_maxact.generated.words import CITIES, DAYS, DESCRIBING, MONTHS, NAMES, SURNAMES, VERBS


def day(chance: Chance) -> str:
    """A date as ISO 8601 writes it."""
    return f"{chance.between(1950, 2049)}-{chance.between(1, 12):02d}-{chance.between(1, 28):02d}"


def clock(chance: Chance) -> str:
    """A time of day with seconds."""
    return f"{chance.below(24):02d}:{chance.below(60):02d}:{chance.below(60):02d}"


def _scalar(chance: Chance) -> object:
    pick = chance.below(9)
    if pick < 2:
        return chance.below(100_000)
    if pick == 2:
        return chance.below(100_000) / 100
    if pick == 3:
        return chance.odds(50)
    if pick == 4:
        return None
    if pick == 5:
        return day(chance)
    return chance.pick(
        (chance.pick(NOUNS), chance.pick(CITIES), f"{chance.pick(NAMES)} {chance.pick(SURNAMES)}", Writer(chance).title())
    )


def _value(chance: Chance, depth: int) -> object:
    pick = chance.below(4) if depth else 3
    if pick < 2:
        return {chance.pick(NOUNS): _value(chance, depth - 1) for _ in range(chance.between(1, 4))}
    if pick == 2:
        return [_value(chance, depth - 1) for _ in range(chance.between(1, 4))]
    return _scalar(chance)


def json_value(chance: Chance, size: int) -> Iterator[str]:
    """One JSON value of about `size` bytes: a scalar, or an object or array, in one of the usual layouts."""
    if size < 16:
        yield json.dumps(_scalar(chance), ensure_ascii=False)
        return
    indent, parts, written = chance.pick((None, None, 1, 2, 4)), [_value(chance, 2)], 0
    while (written := written + len(json.dumps(parts[-1], indent=indent)) + 6) < size:
        parts.append(_value(chance, 3 if size > 300 else 1))
    value = parts if chance.odds(50) else {f"{chance.pick(NOUNS)}{number or ''}": part for number, part in enumerate(parts)}
    separators = (",", ":") if indent is None and chance.odds(50) else None
    yield json.dumps(value, ensure_ascii=chance.odds(50), indent=indent, separators=separators)


def table(chance: Chance, size: int) -> Iterator[str]:
    """One table of about `size` bytes."""
    yield _table(chance, size)


def _table(chance: Chance, size: int) -> str:
    """Rows of about `size` bytes in all, as CSV, TSV, Markdown, aligned or ruled columns."""
    form, count = chance.below(6), chance.between(2, 6) if size > 20 else 1
    makers = [chance.pick((_number, _word, _person, day, clock, _amount)) for _ in range(count)]
    rows, written = [[*(chance.pick(NOUNS) for _ in range(count))]], 0
    while written < size:
        rows.append([make(chance) for make in makers])
        written += sum(map(len, rows[-1])) + 3 * count
    if chance.odds(30) or count == 1:
        del rows[0]
    if form < 3:
        return "\n".join(",;\t"[form].join(row) for row in rows)
    if count == 1:
        return "\n".join(row[0] for row in rows)
    if form == 3:
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([lines[0], "|" + "---|" * count, *lines[1:]])
    widths = [max(len(row[column]) for row in rows) for column in range(count)]
    aligned = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    rule = "─" * sum(widths)
    return "\n".join(aligned if form == 4 else [aligned[0], rule, *aligned[1:], rule])


def _number(chance: Chance) -> str:
    return str(chance.below(10 ** chance.between(1, 6)))


def _word(chance: Chance) -> str:
    return chance.pick(NOUNS)


def _person(chance: Chance) -> str:
    return f"{chance.pick(NAMES)} {chance.pick(SURNAMES)}"


def _amount(chance: Chance) -> str:
    return f"{chance.pick('$€£¥-')}{chance.below(9000)}.{chance.below(100):02d}"


def configuration(chance: Chance, size: int) -> Iterator[str]:
    """Sections of files of settings in one of the usual forms, or a short setting where `size` bytes are no more."""
    if size < 16:
        while True:
            value = chance.pick(("0", "1", "on", "off", "yes", "no"))
            yield f"{chance.pick(NOUNS)}{chance.pick(('=', ': ', ' ', ' = '))}{value}\n"
    while True:
        yield _section(chance)


def _section(chance: Chance) -> str:
    """A section: INI, TOML, YAML, XML, properties, environment, nginx, a Dockerfile."""
    form, section = chance.below(9), chance.pick(NOUNS)
    keys = chance.some(NOUNS, chance.between(1, 5))
    values = [json.dumps(_scalar(chance), ensure_ascii=False) for _ in keys]
    pairs = list(zip(keys, values, strict=True))
    if form == 0:
        return f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs)
    if form == 1:
        return f"{section}:\n" + "".join(f"  {key}: {value}\n" for key, value in pairs)
    if form == 2:
        return f"{section}:\n" + "".join(f"  - name: {key}\n    {chance.pick(VERBS)}: {value}\n" for key, value in pairs)
    if form == 3:
        inner = "".join(f"  <{key}>{value.strip(chr(34))}</{key}>\n" for key, value in pairs)
        return f'<{section} id="{chance.below(999)}">\n{inner}</{section}>\n'
    if form == 4:
        return "".join(f"{section}.{key}={value}\n" for key, value in pairs)
    if form == 5:
        return "".join(f"{section.upper()}_{key.upper()}={value}\n" for key, value in pairs)
    if form == 6:
        return f"{section} {{\n" + "".join(f"    {key} {value};\n" for key, value in pairs) + "}\n"
    if form == 7:
        return (
            f"FROM {section}:{chance.below(9)}.{chance.below(30)}\nRUN {chance.pick(VERBS)} --{keys[0]}\nENV "
            f"{keys[0].upper()}={values[0]}\n"
            f"COPY {section} /{keys[0]}/\n"
        )
    return f"{section} = {{ " + ", ".join(f"{key} = {value}" for key, value in pairs) + " }\n"


def log(chance: Chance, size: int) -> Iterator[str]:
    """Lines of one program's log, in one of the usual layouts; `size` is no matter."""
    form, program, host = chance.below(7), chance.pick(NOUNS), chance.pick(NOUNS)
    while True:
        yield _log_line(chance, form, program, host) + "\n"


def _log_line(chance: Chance, form: int, program: str, host: str) -> str:
    level = chance.pick(("INFO", "DEBUG", "WARN", "ERROR", "TRACE", "FATAL", "NOTICE"))
    message = (
        f"{chance.pick(VERBS)} {chance.pick(NOUNS)} {chance.pick(('failed', 'done', 'skipped', 'retrying', 'ok', 'timed out'))}"
    )
    extra = f"{chance.pick(NOUNS)}={chance.below(10 ** chance.between(1, 7))}"
    if form == 0:
        return f"{day(chance)}T{clock(chance)}Z {level} [{program}] {message} {extra}"
    if form == 1:
        return (
            f"{chance.pick(MONTHS)[:3]} {chance.between(1, 28):2d} {clock(chance)} {host} "
            f"{program}[{chance.below(32768)}]: {message}"
        )
    if form == 2:
        address = ".".join(str(chance.below(256)) for _ in range(4))
        code = chance.pick((200, 201, 301, 304, 400, 403, 404, 500, 503))
        return (
            f'{address} - - "{chance.pick(("GET", "POST", "PUT", "DELETE"))} /{program}/{chance.pick(NOUNS)} '
            f'HTTP/1.1" {code} {chance.below(99999)}'
        )
    if form == 3:
        return f"{level.lower()}: {capital(message)} ({extra})"
    if form == 4:
        return (
            f'File "/{host}/{program}.py", line {chance.between(1, 900)}, in '
            f"{chance.pick(VERBS)}_{chance.pick(NOUNS)}\n    {extra}"
        )
    if form == 5:
        return f"{chance.pick(MODULES)}.{program} {chance.below(1000)}ms {message}"
    mark = chance.pick(("✓", "✗", "PASS", "FAIL", "ok", "not ok", "...", "==>", "[+]", ">>>"))
    return (
        f"{mark} {program}::{chance.pick(DESCRIBING)}_{plural(chance.pick(NOUNS))} {chance.below(1000)}/{1000} "
        f"{chance.pick(DAYS)[:3]}"
    )
