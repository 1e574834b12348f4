"""The sentences of the corpus: names, settings, phrasings, distractors and questions.

A phrasing is a template with these fields: ``{N}`` the person the story is about, ``{F}`` another
person, ``{o}`` and ``{s}`` the object in plural and singular, ``{q}`` another object in plural,
``{c}`` and ``{cs}`` a container, ``{p}`` a place, ``{h}`` a shop, ``{d}`` a day, ``{m}`` a month,
and the numbers ``{a}``, ``{b}`` and ``{x}``. The key of a phrasing is its identity: the split into
training and test combinations hashes these keys, so a key must never be reused for another
sentence.
"""

from dataclasses import dataclass

# Every name carries its pronoun, so that a story may say "She" where that is unambiguous.
NAMES: dict[str, str] = {
    **dict.fromkeys(
        [
            "Ana",
            "Bella",
            "Clara",
            "Dora",
            "Emma",
            "Fiona",
            "Grace",
            "Hanna",
            "Iris",
            "Julia",
            "Kira",
            "Lena",
            "Mia",
            "Nora",
            "Olga",
            "Paula",
            "Rita",
            "Sara",
            "Tina",
            "Vera",
        ],
        "She",
    ),
    **dict.fromkeys(
        [
            "Adam",
            "Ben",
            "Carl",
            "David",
            "Erik",
            "Felix",
            "Georg",
            "Hugo",
            "Ivan",
            "Jonas",
            "Karim",
            "Leo",
            "Max",
            "Noah",
            "Oscar",
            "Peter",
            "Ravi",
            "Sam",
            "Tom",
            "Victor",
        ],
        "He",
    ),
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = ("March", "April", "May", "June", "July", "August", "October")


@dataclass(frozen=True)
class Setting:
    """Where a story plays: one place, one shop, one container, and the objects one would find
    there.
    """

    place: str
    shop: str
    container: str
    containers: str
    objects: tuple[tuple[str, str], ...]


def _setting(place: str, shop: str, container: str, containers: str, *objects: str) -> Setting:
    pairs = tuple((o.split("/")[0], o.split("/")[-1] if "/" in o else o + "s") for o in objects)
    return Setting(place, shop, container, containers, pairs)


SETTINGS: tuple[Setting, ...] = (
    _setting("kitchen", "market", "bowl", "bowls", "apple", "egg", "cookie"),
    _setting("classroom", "book shop", "box", "boxes", "pencil", "notebook", "sticker"),
    _setting("barn", "village shop", "basket", "baskets", "carrot", "potato/potatoes", "pumpkin"),
    _setting("library", "book fair", "crate", "crates", "book", "magazine", "bookmark"),
    _setting("workshop", "hardware store", "drawer", "drawers", "screw", "nail", "brush/brushes"),
    _setting("garden", "flower shop", "pot", "pots", "tulip", "rose", "seed"),
    _setting("harbour", "beach shop", "bucket", "buckets", "shell", "pebble", "hook"),
    _setting("playroom", "toy shop", "chest", "chests", "marble", "block", "puppet"),
    _setting("studio", "craft shop", "tin", "tins", "button", "bead", "ribbon"),
    _setting("bakery", "corner shop", "box", "boxes", "muffin", "bun", "pie"),
    _setting("office", "paper shop", "envelope", "envelopes", "stamp", "card", "photo"),
    _setting("gym", "sports shop", "bag", "bags", "ball", "medal", "badge"),
    _setting("camp", "forest store", "sack", "sacks", "nut", "torch/torches", "pine cone"),
    _setting("music room", "record shop", "case", "cases", "record", "poster", "ticket"),
)

STARTS: dict[str, str] = {
    "s1": "{N} has {a} {o}.",
    "s2": "{N} starts with {a} {o}.",
    "s3": "There are {a} {o} in the {c} of {N}.",
    "s4": "{N} owns {a} {o} and keeps them in a {c}.",
    "s5": "At first, {N} has {a} {o}.",
    "s6": "In the morning, {N} counts {a} {o} in the {p}.",
    "s7": "{N} brings {a} {o} to the {p}.",
    "s8": "For a birthday, {N} gets {a} {o}.",
    "s9": '"I have {a} {o}," says {N}.',
    "s10": "{N} buys a {c} with {a} {o} at the {h}.",
}

# Openings that are a first multiplication by themselves: both factors stand in one sentence.
PRODUCTS: dict[str, str] = {
    "p1": "{N} has {a} {cs} with {b} {o} in each.",
    "p2": "There are {a} {cs} in the {p}, and each holds {b} {o} for {N}.",
    "p3": "{N} buys {a} packs of {b} {o} each.",
    "p4": "{N} fills {a} {cs} with {b} {o} each.",
    "p5": "On each of {a} days, {N} collects {b} {o}.",
}

PHRASES: dict[str, dict[str, str]] = {
    "+": {
        "a1": "{N} buys {b} more {o} at the {h}.",
        "a2": "{F} gives {b} {o} to {N}.",
        "a3": "{N} finds {b} more {o} in the {p}.",
        "a4": "{N} picks up {b} extra {o} on the way home.",
        "a5": "{F} has {b} {o} and hands all of them to {N}.",
        "a6": "A parcel with {b} {o} comes for {N}.",
        "a7": "{N} wins {b} {o} in a game against {F}.",
        "a8": "On {d}, {N} gets another {b} {o}.",
        "a9": '"Take these {b} {o}," says {F} to {N}.',
        "a10": "{F} brings back {b} {o} that belong to {N}.",
        "a11": "{N} receives {b} {o} from {F} by post.",
        "a12": "{N} adds {b} {o} from an old {c}.",
        "a13": "{F} had {b} {o}. Now they all belong to {N}.",
    },
    "-": {
        "b1": "{N} gives {b} {o} to {F}.",
        "b2": "{N} loses {b} {o} in the {p}.",
        "b3": "Sadly, {b} of the {o} are ruined by rain.",
        "b4": "{N} sells {b} {o} at the {h}.",
        "b5": "{F} takes {b} of the {o} from {N}.",
        "b6": "{N} leaves {b} {o} at the house of {F}.",
        "b7": "On {d}, {N} uses up {b} {o}.",
        "b8": '"May I have {b} {o}?" asks {F}, and {N} agrees.',
        "b9": "{N} sends {b} {o} to {F} by post.",
        "b10": "{N} throws away {b} bad {o}.",
        "b11": "A dog runs off with {b} of the {o}.",
        "b12": "{F} borrows {b} {o} from {N}.",
        "b13": "{N} trades {b} {o} for an old {c}.",
    },
    "*": {
        "c1": "Soon {N} has {b} times as many {o}.",
        "c2": "{N} works hard and ends up with {b} times as many {o}.",
        "c3": "{N} trades every {s} for {b} smaller {o}.",
        "c4": "The number of {o} grows to {b} times what it was.",
        "c5": "By {m}, there are {b} times as many {o}.",
        "c6": '"Let us make it {b} times as many {o}," says {F}, and so it happens.',
        "c7": "{F} turns each {s} of {N} into {b} {o}.",
        "c8": "A lucky trade gives {N} {b} {o} for each one.",
        "c9": "The {h} exchanges each {s} for {b} new {o}.",
        "c10": "{N} prepares {b} {cs} with that many {o} in each.",
        "c11": "The same number of {o} goes into each of {b} {cs}.",
        "c12": "With the help of {F}, the {o} become {b} times as many.",
        "c13": "On {d}, the supply of {o} is {b} times as large as before.",
    },
    "/": {
        "d1": "{N} shares the {o} equally among {b} people and keeps one share.",
        "d2": "{N} sorts the {o} into {b} equal piles and keeps only one pile.",
        "d3": "{N} keeps only one of every {b} {o}.",
        "d4": '"Split the {o} into {b} equal parts," says {F}, and {N} takes one part.',
        "d5": "{N} spreads the {o} evenly over {b} {cs} and carries one {c} home.",
        "d6": "The {o} are divided equally between {b} teams, and {N} takes the part of one team.",
        "d7": "{N} lines the {o} up in {b} equal rows and picks up a single row.",
        "d8": "{N} swaps every {b} {o} for one larger {s}.",
        "d9": "On {d}, only one out of every {b} {o} is still good.",
        "d10": "{F} deals the {o} out evenly to {b} players, and {N} is one of them.",
        "d11": "{N} and the family, {b} people in all, split the {o} evenly.",
        "d12": "After the storm, there are {b} times fewer {o}.",
        "d13": "At the {h}, {N} turns in all the {o} and gets one new {s} for every {b}.",
    },
}

# One phrasing of each operation never occurs in training. It is made of known words in a new
# sentence.
HELD_OUT: dict[str, dict[str, str]] = {
    "+": {"a0": "{F} comes to the {p} with {b} {o} for {N}."},
    "-": {"b0": "{F} goes home with {b} of the {o} that belong to {N}."},
    "*": {"c0": "After a lucky day, {N} counts {b} times as many {o} as before."},
    "/": {"d0": "{N} makes {b} equal parts out of the {o} and takes one of them."},
}

# Sentences with a number that changes nothing. Most speak of the same object, in the words of an
# operation.
DISTRACTORS: dict[str, str] = {
    "x1": "{F} has {x} {o} and keeps all of them.",
    "x2": "{F} has {x} {o}, too.",
    "x3": "{N} almost buys {x} more {o}, but then does not.",
    "x4": "{F} offers {x} {o}, but {N} says no.",
    "x5": "{F} sells {x} {o} to a neighbour.",
    "x6": '"I saw {x} {o} at the {h}," says {F}.',
    "x7": "{N} would like to have {x} {o} one day.",
    "x8": "Last year, {N} had {x} {o}.",
    "x9": "There are also {x} {q} in the {p}.",
    "x10": "{F} finds {x} {q} in the {p} and takes them home.",
    "x11": "The walk to the {h} takes {x} minutes.",
    "x12": "{F} lives at number {x}.",
    "x13": "A new {c} costs {x} dollars.",
    "x14": "{N} looks for {x} lost {o}, but does not find them.",
}

QUESTIONS: dict[str, str] = {
    "q1": "How many {o} does {N} have now?",
    "q2": "How many {o} does {N} have in the end?",
    "q3": "What is the number of {o} that {N} has now?",
    "q4": "So how many {o} are there for {N} now?",
    "q5": '"How many {o} are there now?" asks {N}.',
    "q6": "Can you work out how many {o} {N} has in the end?",
}

# What the model writes. ``{e}`` is the equation, for instance 56-24=32.
SOLUTIONS: dict[str, tuple[str, ...]] = {
    "+": (
        "{N} now has {e} {o}.",
        "With the new ones, there are {e} {o}.",
        "Adding gives {e} {o}.",
        "Together that is {e} {o}.",
        "The number goes up to {e} {o}.",
    ),
    "-": (
        "After that, {e} {o} are left.",
        "{N} still has {e} {o}.",
        "That leaves {e} {o}.",
        "Taking away gives {e} {o}.",
        "The number goes down to {e} {o}.",
    ),
    "*": (
        "This makes {e} {o}.",
        "Multiplying gives {e} {o}.",
        "As many times over, that is {e} {o}.",
        "{N} gets {e} {o} in all.",
        "The number grows to {e} {o}.",
    ),
    "/": (
        "Each part is {e} {o}.",
        "One share is {e} {o}.",
        "Dividing gives {e} {o}.",
        "{N} keeps {e} {o}.",
        "The number shrinks to {e} {o}.",
    ),
}

# Words that may open a sentence which begins with a name. They carry no number and no meaning.
OPENERS = ("Later, ", "Then ", "After lunch, ", "The next day, ", "In the evening, ", "Next, ")

# Sentences that describe a state: "After lunch, Tom lives at number 12" would be odd.
NO_OPENER = frozenset({"a5", "a13", "x1", "x2", "x7", "x12"})

PROSE = (
    "{N} walks to the {h} with {F}.",
    "It is {d}, and the {p} is quiet.",
    '"Where are the {o}?" asks {F}.',
    '"They are in the {c}," {N} answers.',
    "The {c} is heavy; {F} helps to carry it.",
    "{N} likes {o} (and {q}, of course).",
    "Why does {F} laugh? Nobody knows.",
    "{N}'s old {c} stands near the door.",
    "They talk about {q}, music and the weather.",
    '"Don\'t worry," says {N}, "we\'ll find the {s}!"',
    "In {m}, the days are long and warm.",
    "{F} reads a story - a long one - about a {s}.",
    "The sun goes down: it is time to go home.",
    "{N} writes a letter to {F} about the {p}.",
    "A cat sleeps on the {c}.",
    "Soon it rains, so {F} closes the window.",
    "{N} and {F} are good friends; they meet every {d}.",
    '"What a beautiful {s}!" {F} says.',
    "The {h} is closed on {d}.",
    "Nobody in the {p} has seen the {s}...",
    "{F} sings, {N} dances, and the dog barks.",
    '"I\'m tired," says {N}. "Let\'s stop."',
    "Everything in the {p} is clean: the floor, the table, the {c}.",
    "Once upon a time, there was a small {s} in a {c}.",
)
