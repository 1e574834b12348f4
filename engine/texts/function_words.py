"""English function words: the closed classes, as word forms.

The classes are the ones that Universal Dependencies v2 calls closed
(universaldependencies.org/u/pos: ADP, AUX, CCONJ, DET, PART, PRON, SCONJ), with the wh-adverbs that
open clauses. Members: PART, PRON and AUX as the English guidelines name them
(universaldependencies.org/en/pos; without archaic and slang forms and without *get*), the others
compiled here, one word each, without participles (*including*, *given*); compare Quirk, Greenbaum,
Leech and Svartvik (1985), A Comprehensive Grammar of the English Language, chapters 5 and 9.
Numerals, which UD counts as closed too, are left to content words, and so is *one*.

A form that can also be a content word (*like*, *can*, *mine*) counts as a function word: without
a tagger the word alone decides.
"""

from __future__ import annotations

_FORMS = {
    "ADP": """
        about above across after against along alongside amid among amongst around as at atop
        before behind below beneath beside besides between beyond by despite down during except
        for from in inside into like near of off on onto out outside over per since than through
        throughout till to toward towards under underneath until unto up upon via with within
        without""",
    "AUX": """
        am are be been being is was were ain't
        had has have having
        did do does doing done
        can cannot could may might must ought shall should will would""",
    "CCONJ": "and both but either neither nor or yet",
    "DET": """
        a an the
        all another any each enough every few fewer half less little many more most much no other
        others several some such
        that these this those what whatever which whichever""",
    "PART": "not to",
    "PRON": """
        he her hers herself him himself his i it its itself me mine my myself oneself our ours
        ourselves she their theirs them themselves they us we you your yours yourself yourselves
        y'all
        anybody anyone anything everybody everyone everything nobody none nothing somebody someone
        something there who whoever whom whomever whose""",
    "SCONJ": """
        although because if lest once so though unless whereas whether while whilst
        how however when whenever where wherever why""",
}

FUNCTION_WORDS: frozenset[str] = frozenset(
    word for forms in _FORMS.values() for word in forms.split()
)
"""Lower-case forms with a straight apostrophe."""

_CLITICS = frozenset({"s", "re", "ve", "ll", "d", "m"})


def is_function_word(word: str) -> bool:
    """Whether an English word, in lower case with straight apostrophes, is a function word.

    A contraction is what its first part is: *it's* like *it*, *Maya's* like *Maya*; one with *n't*
    holds an auxiliary.
    """
    if word in FUNCTION_WORDS or word.endswith("n't"):
        return True
    host, apostrophe, clitic = word.rpartition("'")
    return bool(apostrophe) and clitic in _CLITICS and host in FUNCTION_WORDS
