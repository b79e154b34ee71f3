"""Merkle trees against the Certificate Transparency vectors and RFC 9162's definitions read literally."""

import hashlib

import pytest

from forge_pipeline.audit_log import merkle

# The inputs and tree heads of the Certificate Transparency reference implementation.
CT_INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
CT_HEADS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
# (leaf index, tree size) -> audit path, from the same place; indices from 0.
CT_PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
LEAVES = [merkle.leaf_hash(str(number).encode()) for number in range(40)]


def head_by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + head_by_definition(leaves[:k]) + head_by_definition(leaves[k:])).digest()


@pytest.mark.parametrize("size", range(1, 9))
def test_tree_heads_are_those_of_certificate_transparency(size: int) -> None:
    leaves = [merkle.leaf_hash(data) for data in CT_INPUTS[:size]]
    assert merkle.tree_head(leaves).hex() == CT_HEADS[size - 1]


@pytest.mark.parametrize(("where", "path"), CT_PATHS.items())
def test_audit_paths_are_those_of_certificate_transparency(where: tuple[int, int], path: list[str]) -> None:
    index, size = where
    leaves = [merkle.leaf_hash(data) for data in CT_INPUTS[:size]]
    assert [node.hex() for node in merkle.inclusion_proof(leaves, index)] == path


def test_the_empty_tree_is_the_hash_of_nothing() -> None:
    assert merkle.CompactRange().root == hashlib.sha256().digest() == merkle.EMPTY_ROOT


def test_appending_one_by_one_gives_every_root_by_definition() -> None:
    tree = merkle.CompactRange()
    for size, leaf in enumerate(LEAVES, start=1):
        tree = tree.append(leaf)
        assert (tree.size, tree.root) == (size, head_by_definition(LEAVES[:size]))


def test_every_inclusion_proof_holds_and_no_other_leaf_index_or_root_passes() -> None:
    for size in range(1, 24):
        leaves, root = LEAVES[:size], merkle.tree_head(LEAVES[:size])
        for index in range(size):
            proof = merkle.inclusion_proof(leaves, index)
            assert merkle.verify_inclusion(leaves[index], index, size, proof, root)
            assert not merkle.verify_inclusion(LEAVES[-1], index, size, proof, root)
            assert not merkle.verify_inclusion(leaves[index], index, size, [*proof, root], root)
            assert not merkle.verify_inclusion(leaves[index], index, size, proof, LEAVES[-1])
            assert not merkle.verify_inclusion(leaves[index], size, size, proof, root)
            assert not proof or not merkle.verify_inclusion(leaves[index], index, size, proof[:-1], root)


def test_every_consistency_proof_holds_and_no_rewritten_tree_passes() -> None:
    for new_size in range(1, 24):
        leaves = LEAVES[:new_size]
        rewritten = [merkle.leaf_hash(b"rewritten"), *leaves[1:]]
        for old_size in range(1, new_size + 1):
            old, new = merkle.tree_head(leaves[:old_size]), merkle.tree_head(leaves)
            proof = merkle.consistency_proof(leaves, old_size)
            assert merkle.verify_consistency(old_size, new_size, old, new, proof)
            other, other_proof = merkle.tree_head(rewritten), merkle.consistency_proof(rewritten, old_size)
            assert not merkle.verify_consistency(old_size, new_size, old, other, proof)
            assert not merkle.verify_consistency(old_size, new_size, old, other, other_proof)
            assert not merkle.verify_consistency(old_size, new_size, old, new, [*proof, new])


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(LEAVES[:size], index)
