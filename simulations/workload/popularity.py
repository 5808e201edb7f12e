"""The popularity of each model of a catalogue: Zipf's law by rank, or the scenario's own weights."""

from __future__ import annotations

from simulations.scenario import Models


def shares(models: Models, *, turned: bool = False) -> tuple[float, ...]:
    """The share of each model of the catalogue; they add up to 1.

    A model without a popularity of its own has ``1 / rank ** zipf``.  ``turned``: as after ``shift_at_s``, when the
    popularities have moved on by half the catalogue.
    """
    weights = [model.popularity or 1 / rank**models.zipf for rank, model in enumerate(models.catalogue, start=1)]
    if turned:
        half = len(weights) // 2
        weights = weights[half:] + weights[:half]
    whole = sum(weights)
    return tuple(weight / whole for weight in weights)
