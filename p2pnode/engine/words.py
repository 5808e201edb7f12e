"""The vocabulary of the mock's text, shared by ``mock_text`` and ``tiny_model``: common words, and no grammar."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """
the of and to in is that for it as was with be by on not he this are or his from at which but have an had they you were
their one all we can her has there been if more when will would who so no what up out about into than them time only
some could new other two may then do first any my now such like our over me even most made after also did many before
must through years where much your way well down should because each just those people how too little state good very
make world still own see men work long get here between both life being under never day same another know while last
might us great old year off come since against go came right used take three node peer network token model answer light
water stone river field garden letter morning story
"""
WORDS: Final = tuple(_TEXT.split())
