"""Runs: training and inference as sequences of named stages that an engine, or a plain loop, drives."""
