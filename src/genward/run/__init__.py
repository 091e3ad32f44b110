"""Plan, generate, judge, measure; guards; the one room that knows all the others. Modules are imported where they are
used."""
