"""Mathematics whose figures are right: word problems, derivations, formulas in plain text, Unicode and LaTeX, proofs."""

from __future__ import annotations

import math

from pytest_maxact.generated.chance import Chance
from pytest_maxact.generated.english import Writer, capital, plural

GREEK = ("alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "sigma", "phi", "psi", "omega", "rho", "tau")
SETS = ("ℝ", "ℤ", "ℕ", "ℚ", "ℂ", "𝔽")
OBJECTS = tuple(
    "group ring field graph matrix polynomial triangle circle sequence vector lattice metric manifold prime integer fraction "
    "function limit integral kernel subset topology measure tensor ideal module category martingale hypergraph".split()
)
PROPERTIES = tuple(
    "compact connected finite abelian bounded convex symmetric invertible continuous prime monotone regular open closed dense "
    "cyclic separable planar nilpotent orthogonal convergent even odd irreducible".split()
)


def mathematics(chance: Chance) -> str:
    """A problem, a derivation, a formula or a piece of a proof."""
    return chance.pick((_arithmetic, _problem, _linear, _quadratic, _latex, _proof, _symbols, _matrix, _numbers))(chance) + "\n"


def _arithmetic(chance: Chance) -> str:
    left, right = chance.between(2, 9999), chance.between(2, 999)
    pick = chance.below(6)
    if pick == 0:
        return f"{left} + {right} = {left + right}"
    if pick == 1:
        return f"{left} × {right} = {left * right}"
    if pick == 2:
        return f"{left} ÷ {right} = {left // right} remainder {left % right}"
    if pick == 3:
        return f"gcd({left}, {right}) = {math.gcd(left, right)}, lcm = {left * right // math.gcd(left, right)}"
    if pick == 4:
        return f"√{right * right} = {right}; {right}² − {right - 1}² = {2 * right - 1}"
    modulus = chance.pick((7, 11, 13, 17))
    return f"{left} ≡ {left % modulus} (mod {modulus}); |{right} − {left}| = {abs(left - right)}"


def _problem(chance: Chance) -> str:
    writer = Writer(chance)
    many, each = chance.between(2, 60), chance.between(2, 40)
    things = plural(writer.thing())
    return (
        f"{capital(writer.who())} has {many} boxes with {each} {things} in each, and gives away {each}. How many "
        f"{things} are left? "
        f"{many} · {each} − {each} = {many * each - each}."
    )


def _linear(chance: Chance) -> str:
    letter, root = chance.pick("abcdhkmnpqrstuvwxyz"), chance.between(-20, 60)
    factor, shift = chance.between(2, 19), chance.between(1, 99)
    opening = chance.pick(("Solve", "Let", "Find", "Given", "Suppose", "Consider", "If", "From", "Rearranging", "Hence"))
    return (
        f"{opening} {factor}{letter} + {shift} = {factor * root + shift}. Subtracting {shift}, {factor}{letter} = "
        f"{factor * root}; "
        f"dividing by {factor}, {letter} = {root}."
    )


def _quadratic(chance: Chance) -> str:
    first, second = chance.between(1, 12), chance.between(1, 12)
    return (
        f"x² − {first + second}x + {first * second} = (x − {first})(x − {second}), so x ∈ {{{first}, {second}}}; "
        f"the discriminant is {(first - second) ** 2}."
    )


def _latex(chance: Chance) -> str:
    one, two = (f"\\{name}" for name in chance.some(GREEK, 2))
    power, bound = chance.between(2, 9), chance.pick(("n", "\\infty", "N", "2\\pi"))
    forms = (
        f"$$\\int_0^{{{bound}}} x^{{{power}}} e^{{-{one} x}}\\,dx$$",
        f"\\begin{{equation}}\n  \\sum_{{k=1}}^{{{bound}}} \\frac{{{one}_k}}{{k^{power}}} \\le {two}\n\\end{{equation}}",
        f"\\[ \\frac{{\\partial {one}}}{{\\partial t}} = {two} \\nabla^{power} {one} \\]",
        f"$\\hat{{{one[1:]}}} = \\arg\\min_{{{one}}} \\lVert y - X{one} \\rVert_{power} + {two}\\lVert{one}\\rVert_1$",
        f"\\lim_{{n \\to \\infty}} \\left(1 + \\frac{{{one}}}{{n}}\\right)^n = e^{{{one}}}",
        f"\\mathbb{{E}}[{one} \\mid {two}] = \\sqrt[{power}]{{\\det \\Sigma_{{{two}}}}}",
        f"\\begin{{pmatrix}} {one} & 0 \\\\ {power} & {two} \\end{{pmatrix}}",
    )
    return chance.pick(forms)


def _proof(chance: Chance) -> str:
    one, two = chance.some(OBJECTS, 2)
    first, second = chance.some(PROPERTIES, 2)
    letter = chance.pick("ABCDEFGHKLMNPQRSTUVWXYZ")
    opening = chance.pick(
        ("Theorem", "Lemma", "Proof", "Corollary", "Definition", "Claim", "Remark", "Proposition", "Exercise")
    )
    return (
        f"{opening} {chance.between(1, 9)}.{chance.between(1, 30)}. Let {letter} be a {first} {one}. Every "
        f"{second} {two} of {letter} "
        f"is {first} whenever its {chance.pick(OBJECTS)} is {chance.pick(PROPERTIES)}. {chance.pick(('∎', 'QED', '□', ''))}"
    )


def _symbols(chance: Chance) -> str:
    domain, letter = chance.pick(SETS), chance.pick("fghφψτσ")
    forms = (
        f"∀x ∈ {domain} ∃y ∈ {chance.pick(SETS)}: x ≤ y ∧ {letter}(x) ≠ {letter}(y)",
        f"{letter}: {domain} → {chance.pick(SETS)}, x ↦ x² + {chance.between(1, 99)}",
        "¬(p ∨ q) ⇔ ¬p ∧ ¬q, p → q ≡ ¬p ∨ q",
        f"|A ∪ B| = |A| + |B| − |A ∩ B| = {chance.between(1, 50)} + {chance.between(1, 50)} − |A ∩ B|",
        f"∑_{{i=1}}^{{n}} i = n(n+1)/2, ∏ p_i ≈ {chance.between(1, 9)}·10⁻{chance.pick('²³⁴⁵⁶')}",
        f"∂{letter}/∂x ≈ ({letter}(x+h) − {letter}(x−h)) / 2h, h = 10^-{chance.between(1, 9)}",
    )
    return chance.pick(forms)


def _matrix(chance: Chance) -> str:
    a, b, c, d = (chance.between(-9, 9) for _ in range(4))
    return f"[[{a}, {b}], [{c}, {d}]]: det = {a * d - b * c}, tr = {a + d}, transpose [[{a}, {c}], [{b}, {d}]]"


def _numbers(chance: Chance) -> str:
    start, step = chance.between(-50, 200), chance.between(2, 40)
    terms = [start + step * index for index in range(6)]
    kind = chance.pick(("Arithmetic", "The sequence", "Continue", "Next after", "Terms"))
    return f"{kind}: {', '.join(map(str, terms))}, …, with difference {step}; their sum is {sum(terms)}."
