"""The chain of constants on a region, whose slopes are taken where the constants themselves say that signals stay."""
