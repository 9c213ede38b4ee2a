"""Figures as functions of the numbers they show."""
