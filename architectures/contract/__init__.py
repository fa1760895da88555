"""What a layer and a model must keep, as questions put to small inputs.

    checkup     every question, put to one layer: `mad check` and the tests of the registry run this
    whole       fewer, put to whole models that are not built from a spec
    causality   the one that every model is asked before it is trained

A question is in `forward`, `decoding`, `training` or `statements`; `subject` is what it is given.
"""
