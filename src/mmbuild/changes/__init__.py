"""What changed: between a build and what its recipe says now, and between two builds.

``trace``     why actions run, or last ran, back to what changed
``blame``     which lines of a recipe a change comes from
``builds``    two engine directories side by side
``files``     which of their files differ
"""
