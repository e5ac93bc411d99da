"""The checks: of every image, of an algorithm, of an evaluation; and the rules that outputs have to follow."""
