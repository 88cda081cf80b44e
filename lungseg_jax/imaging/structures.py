"""What a mask's pixels say: one bit for each structure, since structures overlap."""

import enum


class Structure(enum.IntFlag):
    """Bits of a mask's pixel. `LUNGS` is set wherever `RIGHT_LUNG` or `LEFT_LUNG` is.

    Sides are the patient's. In a mask with unknown sides, lung is `LUNGS` alone, that is 1.
    """

    LUNGS = 1
    RIGHT_LUNG = 2
    LEFT_LUNG = 4
    HEART = 8
    CLAVICLES = 16
