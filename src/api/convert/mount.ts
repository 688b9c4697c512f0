// Mounts between Docker's JSON and the model. Pure.

import { create } from '@bufbuild/protobuf';
import {
  DriverSchema, MountSchema, Mount_BindOptionsSchema, Mount_BindOptions_Propagation, Mount_Consistency,
  Mount_TmpfsOptionsSchema, Mount_Type, Mount_VolumeOptionsSchema, type Driver, type Mount,
} from '../../model/proto/swarmkit_pb.js';
import { toPairs, toRecord } from '../../model/pairs.js';
import { compact, nonEmpty, word, wordOf, type JsonObject, type Reader } from './json.js';

const TYPE = {
  bind: Mount_Type.BIND, volume: Mount_Type.VOLUME, tmpfs: Mount_Type.TMPFS, npipe: Mount_Type.NPIPE,
  cluster: Mount_Type.CLUSTER,
};
const CONSISTENCY = {
  '': Mount_Consistency.DEFAULT, default: Mount_Consistency.DEFAULT, consistent: Mount_Consistency.CONSISTENT,
  cached: Mount_Consistency.CACHED, delegated: Mount_Consistency.DELEGATED,
};
const PROPAGATION = {
  '': Mount_BindOptions_Propagation.RPRIVATE, rprivate: Mount_BindOptions_Propagation.RPRIVATE,
  private: Mount_BindOptions_Propagation.PRIVATE, rshared: Mount_BindOptions_Propagation.RSHARED,
  shared: Mount_BindOptions_Propagation.SHARED, rslave: Mount_BindOptions_Propagation.RSLAVE,
  slave: Mount_BindOptions_Propagation.SLAVE,
};

export function driverFromJson(json: Reader | undefined): Driver | undefined {
  if (json === undefined) return undefined;
  return create(DriverSchema, { name: json.text('Name'), options: toPairs(json.record('Options')) });
}

export function driverToJson(driver: Driver | undefined): JsonObject | undefined {
  if (driver === undefined) return undefined;
  return compact({ Name: nonEmpty(driver.name), Options: nonEmpty(toRecord(driver.options)) });
}

export function mountFromJson(json: Reader): Mount {
  const mount = create(MountSchema, {
    type: word(TYPE, json.text('Type') === '' ? 'volume' : json.text('Type'), `invalid MountType: "${json.text('Type')}"`),
    source: json.text('Source'),
    target: json.text('Target'),
    readonly: json.flag('ReadOnly'),
    consistency: word(CONSISTENCY, json.text('Consistency'), `invalid mount consistency: "${json.text('Consistency')}"`),
  });
  const bind = json.object('BindOptions');
  if (bind !== undefined) {
    const propagation = bind.text('Propagation');
    mount.bindOptions = create(Mount_BindOptionsSchema, {
      propagation: word(PROPAGATION, propagation, `invalid propagation mode: "${propagation}"`),
      nonrecursive: bind.flag('NonRecursive'),
      createmountpoint: bind.flag('CreateMountpoint'),
      readonlynonrecursive: bind.flag('ReadOnlyNonRecursive'),
      readonlyforcerecursive: bind.flag('ReadOnlyForceRecursive'),
    });
  }
  const volume = json.object('VolumeOptions');
  if (volume !== undefined) {
    const driverConfig = driverFromJson(volume.object('DriverConfig'));
    mount.volumeOptions = create(Mount_VolumeOptionsSchema, {
      nocopy: volume.flag('NoCopy'), labels: toPairs(volume.record('Labels')), subpath: volume.text('Subpath'),
      ...(driverConfig === undefined ? {} : { driverConfig }),
    });
  }
  const tmpfs = json.object('TmpfsOptions');
  if (tmpfs !== undefined) {
    mount.tmpfsOptions = create(Mount_TmpfsOptionsSchema, {
      sizeBytes: tmpfs.int('SizeBytes'), mode: tmpfs.uint32('Mode'),
    });
  }
  return mount;
}

export function mountToJson(mount: Mount): JsonObject {
  const { bindOptions: bind, volumeOptions: volume, tmpfsOptions: tmpfs } = mount;
  return compact({
    Type: wordOf(TYPE, mount.type, 'volume'),
    Source: nonEmpty(mount.source),
    Target: nonEmpty(mount.target),
    ReadOnly: nonEmpty(mount.readonly),
    Consistency: mount.consistency === Mount_Consistency.DEFAULT ? undefined : wordOf(CONSISTENCY, mount.consistency, ''),
    BindOptions: bind === undefined ? undefined : compact({
      Propagation: wordOf(PROPAGATION, bind.propagation, 'rprivate'),
      NonRecursive: nonEmpty(bind.nonrecursive),
      CreateMountpoint: nonEmpty(bind.createmountpoint),
      ReadOnlyNonRecursive: nonEmpty(bind.readonlynonrecursive),
      ReadOnlyForceRecursive: nonEmpty(bind.readonlyforcerecursive),
    }),
    VolumeOptions: volume === undefined ? undefined : compact({
      NoCopy: nonEmpty(volume.nocopy), Labels: nonEmpty(toRecord(volume.labels)), Subpath: nonEmpty(volume.subpath),
      DriverConfig: driverToJson(volume.driverConfig),
    }),
    TmpfsOptions: tmpfs === undefined ? undefined : compact({
      SizeBytes: nonEmpty(Number(tmpfs.sizeBytes)), Mode: nonEmpty(tmpfs.mode),
    }),
  });
}
