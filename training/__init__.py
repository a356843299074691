"""Training of EasyAnimateV3 models: the nano checkpoint from nothing, LoRAs, and one's own videos.

Nothing in the node pack imports this package. It needs torch and numpy alone, except where a module says otherwise.
"""
