"""The values that reborn weights start with."""
