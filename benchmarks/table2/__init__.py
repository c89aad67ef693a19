"""Does the perceptual loss help? The rows of the paper's Table 2 at a scale that anybody can rerun."""
