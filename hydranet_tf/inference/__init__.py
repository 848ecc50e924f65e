"""Predictions from anything that was trained or exported here."""
