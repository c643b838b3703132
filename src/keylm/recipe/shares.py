"""How many tokens each source of a recipe contributes, to training and to the tokenizer's sample."""

from keylm.recipe.load import Recipe


def token_shares(recipe: Recipe) -> dict[str, float]:
    """Return each used source's share of all tokens that the recipe trains on; they sum to 1."""
    total = sum(stage.tokens for stage in recipe.stages.values())
    shares = dict.fromkeys(recipe.used_sources, 0.0)
    for stage in recipe.stages.values():
        for name in shares:
            weight = stage.weights.get(name, 0.0) / sum(stage.weights.values())
            shares[name] += weight * stage.tokens / total
    return shares


def sample_shares(recipe: Recipe) -> dict[str, float]:
    """Return the sources that the tokenizer is trained on, with weights in proportion to their training tokens.

    Typo sources are left out; where there are no others, the sources that they are made from take their place.
    """
    shares = token_shares(recipe)
    return {name: share for name, share in shares.items() if not recipe.sources[name].typos_of} or _origins(recipe)


def _origins(recipe: Recipe) -> dict[str, float]:
    """Return the shares of the sources that typo sources are made from; each splits its own evenly among them."""
    shares: dict[str, float] = {}
    for name, share in token_shares(recipe).items():
        origins = recipe.sources[name].typos_of
        for origin in origins:
            shares[origin] = shares.get(origin, 0.0) + share / len(origins)
    return shares
