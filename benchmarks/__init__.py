"""What stepwarden costs, beside the least that anything of its kind could cost on the same machine."""
