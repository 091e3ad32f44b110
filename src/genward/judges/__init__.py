"""Judges: one file each, with its card (labeled set, sensitivity, specificity, thresholds)."""
