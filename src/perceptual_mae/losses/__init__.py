"""One module per equation of the paper. Every loss term has the same signature, `LossTerm`."""
