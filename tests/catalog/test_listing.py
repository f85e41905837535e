"""What is said of variants."""

import pytest

from timm_backbones_ext.catalog.listing import describe_variant, family_name, listings
from timm_backbones_ext.families import FAMILIES
from timm_backbones_ext.registry import VARIANTS


def test_every_variant_is_listed_once() -> None:
    assert [facts.name for facts in listings()] == list(VARIANTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_of_a_base_is_that_of_its_class(family: str) -> None:
    assert family_name(FAMILIES[family].smallest) == family
    assert family_name(f"ext_{FAMILIES[family].smallest}") == family  # in a module of ours, so it is built


def test_a_base_of_no_family_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected a full timm model of one of the families"):
        family_name("vit_tiny_patch16_224")


def test_a_listing_has_the_edits_and_the_licence_of_each_tag() -> None:
    facts = describe_variant("ext_resnet50_dcn")
    assert (facts.family, facts.base, facts.edits) == ("resnet", "resnet50", ("dcn",))
    assert facts.tags["a1_in1k"] == "apache-2.0"
    assert facts in listings(family="resnet", edit="dcn", licence="cc-by-nc-4.0")


@pytest.mark.parametrize("wrong", [{"family": "resnets"}, {"edit": "dnc"}, {"licence": "apache"}])
def test_an_unknown_filter_is_an_error_that_names_the_nearest(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="did you mean"):
        list(listings(**wrong))
