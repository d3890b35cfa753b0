"""Speed and memory beside peers and limits; each script prints ratios of one run."""
