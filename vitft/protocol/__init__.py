"""One task's way to its number: plan the units, tune on val, retrain, open test once."""
