"""Software bill of materials (CycloneDX 1.6) of the package and all that it requires."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from release.licences import closure, field, licence_name, required_by


def write(path: Path) -> None:
    """Write the bill; the same environment and SOURCE_DATE_EPOCH give the same bytes.

    Raises
    ------
    ValueError
        If what was made is not valid by the schema of CycloneDX.
    """
    text = JsonV1Dot6(make()).output_as_string(indent=2)
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f'The bill of materials is not valid: {fault}')
    path.write_text(text + '\n', encoding='utf-8')


def make() -> Bom:
    """Return the bill of the installed environment."""
    found = {canonicalize_name(one.name): one for one in closure('mslesseg')}
    parts = {name: _component(name, one) for name, one in found.items()}
    bom = Bom()
    bom.metadata.component = parts[canonicalize_name('mslesseg')]
    bom.metadata.timestamp = datetime.fromtimestamp(
        int(os.environ.get('SOURCE_DATE_EPOCH', '0')), UTC
    )
    versions = ' '.join(sorted(f'{one.name}=={one.version}' for one in found.values()))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, versions)
    for name, part in parts.items():
        if name != 'mslesseg':
            bom.components.add(part)
        needs = {canonicalize_name(need) for need in required_by(found[name])}
        bom.register_dependency(part, [parts[need] for need in sorted(needs)])
    return bom


def _component(name: str, found: metadata.Distribution) -> Component:
    return Component(
        type=ComponentType.APPLICATION if name == 'mslesseg' else ComponentType.LIBRARY,
        name=name,
        version=found.version,
        description=field(found, 'Summary'),
        purl=PackageURL('pypi', name=name, version=found.version),
        bom_ref=f'{name}=={found.version}',
        licenses=[LicenseFactory().make_from_string(licence_name(found))],
    )
