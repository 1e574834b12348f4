"""Texts of the gallery that are no stories: numbers, scripts and signs that tokenizers stumble on.

Signs that cannot be seen are written as escapes, so that this file shows what it holds.
"""

from dataclasses import dataclass

from engine import Text


@dataclass(frozen=True)
class Curiosity:
    """A text with its place in the gallery."""

    name: str
    model: str
    title: str
    description: str
    text: Text


NUMBERS = Text(
    prompt=(
        "Facts: 7, 42, 99, 100, 160, 365, 1000, 1024, 2026, 12345, 1000000, 1,000,000, 3.14, 007."
    ),
    response=(
        " 7+5=12. 42-7=35. 12*12=144. 160/8=20. 365+35=400. 1024-24=1000. 12345+1=12346."
        " 999999+1=1000000. 3.14*2=6.28."
    ),
)

CURIOSITIES = (
    Curiosity(
        "numbers-digits",
        "demo",
        "Numbers, digit by digit",
        "Every digit is a token of its own: see where long numbers begin to surprise.",
        NUMBERS,
    ),
    Curiosity(
        "numbers-whole",
        "demo-multidigit",
        "Numbers in one piece",
        "The same numbers for the model that knows many of them whole: see which are split.",
        NUMBERS,
    ),
    Curiosity(
        "accents",
        "demo",
        "Two ways to write é",
        "Words that look alike, written with one sign or with two, come apart differently.",
        Text(
            prompt="Question: Zo\u00eb eats 3 caf\u00e9 cr\u00e8mes. Zoe\u0308 eats 3 cafe\u0301"
            " cre\u0300mes. How many?\n",
            response="\u212bngstr\u00f6m or \u00c5ngstr\u00f6m? \ufb01sh or fish? Stra\u00dfe or"
            " STRASSE? Z\u0351\u036b\u0343a\u030al\u0334g\u0360o\u0315. \u1e69 s\u0323\u0307"
            " s\u0307\u0323.\nAnswer: 6",
        ),
    ),
    Curiosity(
        "emoji",
        "demo",
        "One emoji, many pieces",
        "A family, a flag and a coloured thumb are one picture each, and a dozen pieces.",
        Text(
            prompt="Question: How many people? "
            "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1eb\U0001f1f7"
            " \U0001f44d\U0001f3fd 1\ufe0f\u20e3 \u2764\ufe0f \u2764 \U0001f3f3\ufe0f\u200d"
            "\U0001f308\n",
            response="\U0001f468 and \U0001f469 and \U0001f467 and \U0001f466 \U0001f917, so 4."
            "\nAnswer: 4",
        ),
    ),
    Curiosity(
        "directions",
        "demo",
        "Right to left",
        "Two scripts run against each other, and one sign turns a whole line around.",
        Text(
            prompt="Question: \u05d3\u05e0\u05d4 has 12 \u05ea\u05e4\u05d5\u05d7\u05d9\u05dd and"
            " \u0644\u064a\u0644\u0649 has \u0661\u0662 \u062a\u0641\u0627\u062d\u0629."
            " How many?\n",
            response="Safe: invoice.pdf. Turned: invoice\u202efdp.exe\u202c."
            " Kept apart: \u2067(12+12)\u2069 = 24.\nAnswer: 24",
        ),
    ),
    Curiosity(
        "invisible",
        "demo",
        "Signs you cannot see",
        "Between ordinary letters stand signs without a picture: each one costs tokens.",
        Text(
            prompt="\ufeffQuestion:\u00a0Ann has 3\u202f000 pens\u200b and\ta\u00ad pen\u2060cil."
            "\r\nHow\u3000many?\n",
            response="pay\u200dpal is not paypal. v\ufe0e1 \U000e0041\U000e0042 \u034f x\u2028y"
            "\x00z\x1b[31mred\x7f.\nAnswer: 3001",
        ),
    ),
)
