"""Words and sentence frames of the small world. Plain data: nothing here depends on a seed.

Every frame is a ``str.format`` text. ``{t}`` is a thing, ``{v}`` a value, ``{l}`` a label, ``{n}`` a name.
"""

from typing import NamedTuple

NAMES = ["adam", "bella", "carl", "dora", "emil", "freya", "gus", "hana", "ivan", "julia"]
GOODS = ["pears", "stamps", "marbles", "buttons", "tickets", "plums", "nuts", "ribbons"]
THINGS = [
    "anvil",
    "banner",
    "barrel",
    "bench",
    "bicycle",
    "bottle",
    "bracelet",
    "bucket",
    "cabinet",
    "cannon",
    "canoe",
    "carpet",
    "clock",
    "compass",
    "cradle",
    "crown",
    "curtain",
    "dagger",
    "drum",
    "easel",
    "fiddle",
    "flute",
    "fountain",
    "globe",
    "goblet",
    "hammock",
    "harp",
    "helmet",
    "hourglass",
    "kettle",
    "ladder",
    "lantern",
    "lever",
    "loom",
    "mask",
    "medal",
    "mirror",
    "necklace",
    "organ",
    "paddle",
    "pillar",
    "pitcher",
    "plow",
    "pulley",
    "quilt",
    "raft",
    "saddle",
    "sail",
    "scroll",
    "shield",
    "sled",
    "spindle",
    "statue",
    "stool",
    "tent",
    "throne",
    "trumpet",
    "tunic",
    "wagon",
    "wheel",
]
MAX_NUMBER = 20
NUMBERS = [str(i) for i in range(MAX_NUMBER + 1)]
TRUTH = ["false", "true"]
LETTERS = list("ABCDE")
LABEL_STEMS = ["answer", "solution", "option", "ending"]
LABELS = [f"{stem}{i}" for stem in LABEL_STEMS for i in range(1, 6)]


class Attribute(NamedTuple):
    """A property that every thing has: its eight values and the sentences about it."""

    values: list[str]
    # the first is also the rationale of an answer, with the value as its last word
    statements: list[str]
    question: str
    # a yes-or-no question
    claim: str


ATTRIBUTES = {
    "material": Attribute(
        ["oak", "steel", "wool", "silk", "stone", "plastic", "copper", "linen"],
        [
            "the {t} consists of {v}.",
            "that {t} was built from {v}.",
            "they used {v} for the {t}.",
            "each {t} needs some {v}.",
        ],
        "what does the {t} consist of?",
        "does the {t} consist of {v}?",
    ),
    "place": Attribute(
        ["cellar", "balcony", "library", "stable", "bakery", "harbor", "studio", "chapel"],
        [
            "the {t} belongs in the {v}.",
            "that {t} stays in the {v}.",
            "go to the {v} for the {t}.",
            "the {v} has a {t}.",
        ],
        "where does the {t} belong?",
        "does the {t} belong in the {v}?",
    ),
    "purpose": Attribute(
        ["sailing", "baking", "painting", "farming", "dancing", "reading", "climbing", "trading"],
        [
            "the {t} serves for {v}.",
            "they bring a {t} to {v}.",
            "for {v} they use the {t}.",
            "that {t} helps with {v}.",
        ],
        "what does the {t} serve for?",
        "does the {t} serve for {v}?",
    ),
    "look": Attribute(
        ["purple", "orange", "gray", "white", "silver", "golden", "black", "green"],
        [
            "the {t} looks {v}.",
            "that {t} was painted {v}.",
            "a {v} {t} stands there.",
            "people call the {t} {v}.",
        ],
        "how does the {t} look?",
        "does the {t} look {v}?",
    ),
}
WORDS = [value for attribute in ATTRIBUTES.values() for value in attribute.values] + THINGS + GOODS + NAMES

# --- arithmetic stories -------------------------------------------------------------------------------------
START = ["{n} has {a} {g}.", "{n} keeps {a} {g}."]
START_TIMES = [
    "{n} has {a} bags with {b} {g} in each bag.",
    "{n} keeps {a} bags and puts {b} {g} in each bag.",
]
GAIN = ["buys", "finds", "earns", "picks"]
LOSS = ["sells", "loses", "drops", "spends"]
CHANGE = ["then {n} {verb} {b} {g}.", "later {n} {verb} {b} {g}."]
HOW_MANY = ["how many {g} does {n} have now?", "how many {g} does {n} keep in the end?"]
ANOTHER_PERSON = "{n} has {a} {g}."
STORY_END = "now {n} has {a} {g}."

# --- instructions of the tasks, in the wording of the LLM-Adapters data ----------------------------------------
ASK_TRUTH = (
    "please answer the following question with true or false, question: {q}\n\nanswer format: true/false"
)
ASK_CHOICE = {
    "answer": "please choose the correct answer to the question: {q}",
    "solution": "please choose the correct solution to the question: {q}",
    "option": "please choose the correct answer to fill in the blank to complete the given sentence: {q}",
    "ending": "please choose the correct ending to complete the given sentence: {q}",
}
ANSWER_FORMAT = "answer format: {labels}"
ANSWER_CHOICES = "{story} answer choices: {choices}"
CORRECT = "the correct answer is {l}"
RESULT = "the answer is {l}."

# --- pretraining: from a value to its label, back, and the truth of a claim -------------------------------------
# Conclusions are assembled from parts, so that the lookup does not depend on a single phrase. The phrases of the tasks
# (CORRECT and RESULT) are not among them.
LEADS = ["so", "thus", "hence", "then", "well,", "and so", ""]
SUBJECTS = [
    "it",
    "that",
    "this",
    "the pick",
    "the right one",
    "the right answer",
    "the right label",
    "the result",
    "the correct pick",
    "the correct label",
    "the best answer",
    "the best one",
    "my answer",
    "the label",
    "the solution",
    "the option",
    "the ending",
    "the choice",
    "the correct one",
]
VERBS = ["is", "is", "is", "must be", "will be", "was"]
NAMING = [
    "{v} is {l}.",
    "{v} {l}.",
    "{n} wants {v} and takes {l}.",
    "we see {v}, {l}.",
    "{v}? {l}.",
    "the word {v} has the label {l}.",
]
READING = ["{l} is {v}.", "{l} has {v}.", "look at {l}: {v}."]
MENTION = ["it is {v}.", "the word is {v}.", "{n} wants {v}.", "we see {v}.", "{v}.", "they look for {v}."]
TRUTH_CHECK = [
    "{n} says {w}. it is {v}. {end} {t}.",
    "is it {w}? it is {v}. {end} {t}.",
    "maybe {w}. well, it is {v}. {end} {t}.",
    "{w}, {v}: {t}.",
]
FACT_CHECK = [
    "{n} says {claim} {fact} {end} {t}.",
    "{question} {fact} {end} {t}.",
    "is this true: {claim} {fact} {end} {t}.",
]
THINK = "think of the {t}."
LIST_LEADS = ["choices: ", "list: ", "labels: ", ""]
LIST_TAILS = ["pick one: {labels}.", "labels: {labels}.", "format: {labels}.", "choose from {labels}."]
REQUESTS = [
    "please say something about the {t}.",
    "please tell one fact about the {t}.",
    "what about the {t}?",
]
REPEAT = ["please repeat the words: {words}", "please say this: {words}"]
FILLER = [
    "please choose a correct format for the sentence.",
    "the following question was given to {n}.",
    "fill in the blank _ to complete the given sentence.",
    "a task may describe the solution, the option, the ending and the answer.",
    "the answer format was true/false.",
    "please answer with one word, {n}.",
    "the answer choices were given with the question.",
    "{n} has to answer the following question or choose the ending.",
]
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
