"""The words, names and things the tasks are made of, and made-up words for the spelling tasks."""

from __future__ import annotations

import random

NAMES = ("Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivan", "Jane", "Karl", "Lena")
THINGS = ("apples", "books", "coins", "cups", "eggs", "keys", "nuts", "pens", "shells", "stamps")
SORTABLE = (
    *("ant", "bear", "cat", "deer", "eagle", "fox", "goat", "hen", "ibis", "jay", "kiwi", "lion"),
    *("mouse", "newt", "owl", "pig", "quail", "rat", "seal", "tiger", "viper", "wolf", "yak", "zebra"),
)
SPELLABLE = (
    *("apple", "arm", "autumn", "bag", "bank", "basket", "bell", "bird", "bottle", "bread", "bridge"),
    *("butter", "button", "candle", "castle", "chair", "church", "cloud", "coat", "copper", "corn"),
    *("desert", "door", "dream", "engine", "farmer", "feather", "field", "finger", "fire", "flower"),
    *("forest", "garden", "glass", "gold", "hammer", "harbour", "hat", "honey", "horse", "house"),
    *("island", "jacket", "kitchen", "ladder", "lake", "lamp", "leaf", "lemon", "letter", "light"),
    *("market", "milk", "mirror", "moon", "morning", "mountain", "needle", "night", "ocean", "onion"),
    *("orange", "paper", "pencil", "pepper", "piano", "pillow", "planet", "pocket", "potato", "rain"),
    *("ribbon", "ring", "river", "road", "rocket", "sailor", "salt", "school", "sea", "ship", "shoe"),
    *("silver", "sister", "snow", "spoon", "spring", "star", "stone", "street", "sugar", "summer"),
    *("sun", "table", "teacher", "tent", "tomato", "tower", "train", "tree", "valley", "village"),
    *("wagon", "water", "wheel", "wind", "window", "winter", "wood", "wool", "yellow"),
)
_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"


def draw_spellable(rng: random.Random, longest: int) -> str:
    """A lower-case word of 3 to `longest` letters: a real one, or (two times in three) a made-up one."""
    if rng.random() < 1 / 3:
        return rng.choice([word for word in SPELLABLE if len(word) <= longest])
    length = rng.randint(3, longest)
    start = rng.randrange(2)
    return "".join(rng.choice((_CONSONANTS, _VOWELS)[(start + i) % 2]) for i in range(length))
