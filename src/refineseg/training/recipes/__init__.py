"""Recipes: functions that give a training configuration."""
