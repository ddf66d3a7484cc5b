"""Meshes as files that other programs open: GLB, PLY, OBJ."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8

from rayprior.evaluation.mesh import Mesh
from rayprior.files import write_atomically

MeshFormat = Literal["glb", "ply", "obj"]
MESH_FORMATS: tuple[str, ...] = get_args(MeshFormat)
FLOAT, UINT16, UINT32 = 5126, 5123, 5125  # glTF 2.0's componentType
VERTEX_DATA, INDEX_DATA = 34962, 34963  # and its bufferView.target


def write_mesh(path: Path, mesh: Mesh, format: MeshFormat) -> None:
    """One file, whole or not there, in the mesh's own units and axes. UserError where it can't be written.

    glb  positions as floats, colours linear as glTF wants them and unlit, for they hold the light of the photographs
    ply  binary, positions as doubles
    obj  text, with colours behind the positions as most programs read them
    """
    content: Callable[[Mesh], bytes] = {"glb": _glb, "ply": _ply, "obj": _obj}[format]
    write_atomically(path, lambda file: file.write(content(mesh)))


def linear_from_srgb(rgb: UInt8[np.ndarray, "v 3"]) -> Float[np.ndarray, "v 3"]:
    """0..255 as pictures store it -> linear light in [0, 1] (IEC 61966-2-1)."""
    value = rgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _rgb(mesh: Mesh) -> np.ndarray:
    return np.full((len(mesh.vertices), 3), 200, np.uint8) if mesh.rgb is None else mesh.rgb


def _ply(mesh: Mesh) -> bytes:
    vertex = np.dtype([("position", "<f8", 3), ("normal", "<f4", 3), ("rgb", "u1", 3)])
    rows = np.empty(len(mesh.vertices), vertex)
    rows["position"], rows["normal"], rows["rgb"] = mesh.vertices, mesh.normals, _rgb(mesh)
    faces = np.empty(len(mesh.faces), np.dtype([("count", "u1"), ("vertex", "<i4", 3)]))
    faces["count"], faces["vertex"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property double {axis}" for axis in "xyz"] + [f"property float n{axis}" for axis in "xyz"]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header\n"]
    return "\n".join(header).encode() + rows.tobytes() + faces.tobytes()


def _obj(mesh: Mesh) -> bytes:
    vertices = np.concatenate([mesh.vertices, _rgb(mesh) / 255], axis=1).tolist()
    lines = [f"v {x:.9g} {y:.9g} {z:.9g} {r:.4g} {g:.4g} {b:.4g}" for x, y, z, r, g, b in vertices]
    lines += [f"vn {x:.4f} {y:.4f} {z:.4f}" for x, y, z in mesh.normals.tolist()]
    lines += [f"f {a}//{a} {b}//{b} {c}//{c}" for a, b, c in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _glb(mesh: Mesh) -> bytes:
    """glTF 2.0 in one file: a JSON chunk that describes, a binary chunk that holds."""
    position = mesh.vertices.astype("<f4")
    colour = np.zeros((len(position), 4), "<u2")  # rows of glTF begin at multiples of 4 bytes
    colour[:, :3], colour[:, 3] = np.rint(linear_from_srgb(_rgb(mesh)) * 65535), 65535
    parts = [
        (position, FLOAT, "VEC3", VERTEX_DATA),
        (mesh.normals.astype("<f4"), FLOAT, "VEC3", VERTEX_DATA),
        (colour, UINT16, "VEC4", VERTEX_DATA),
        (mesh.faces.astype("<u4").reshape(-1), UINT32, "SCALAR", INDEX_DATA),
    ]
    views, accessors, offset = [], [], 0
    for view, (array, kind, shape, target) in enumerate(parts):
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": target})
        accessors.append({"bufferView": view, "componentType": kind, "count": len(array), "type": shape})
        offset += array.nbytes
    accessors[0] |= {"min": position.min(axis=0).tolist(), "max": position.max(axis=0).tolist()}
    accessors[2]["normalized"] = True
    primitive = {"attributes": {"POSITION": 0, "NORMAL": 1, "COLOR_0": 2}, "indices": 3, "material": 0}
    scene: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "rayprior"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "materials": [{"extensions": {"KHR_materials_unlit": {}}, "doubleSided": True}],
        "meshes": [{"primitives": [primitive]}],
        "nodes": [{"mesh": 0}],
        "scenes": [{"nodes": [0]}],
        "scene": 0,
        "buffers": [{"byteLength": offset}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(scene, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(array.tobytes() for array, *_ in parts)  # all of them multiples of 4 bytes long
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
