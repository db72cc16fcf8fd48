"""Configuration as a file: read a YAML file, tell how the database differs from it, and make it so.

`applying.apply_text` and `exporting.export_pieces` are the two ways in. The way of a file: `yaml_tree` (text to marked
nodes) -> `reading` (nodes to entries, by the fields of each kind) -> `references` (what entries name exists) ->
`planning` (what differs) -> `applying` (one transaction) -> `telling` (for people). A kind of object is one small
file in `kinds/`, listed in `kinds/__init__.py`. Nothing here knows of commands or of the terminal.
"""
