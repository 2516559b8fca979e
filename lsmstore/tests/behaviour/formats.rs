//! Files are what FORMATS.md says: they are walked here with the offsets of that page and nothing of the crate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use lsmstore::objects;
use lsmstore::{Batch, Config, Durability, LogChoice, Store, SystemEnv};

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8]) -> Walk<'a> {
        Walk { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn varint(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = self.varint() as usize;
        self.take(length)
    }

    fn varints<const N: usize>(&mut self) -> [u64; N] {
        std::array::from_fn(|_| self.varint())
    }

    fn ended(&self) -> bool {
        self.at == self.bytes.len()
    }
}

/// Key, sequence, kind, value.
type Version = (Vec<u8>, u64, u8, Vec<u8>);

fn batch(bytes: &[u8], first: u64) -> Vec<Version> {
    let mut walk = Walk { bytes, at: 4 };
    let writes = (0..u64::from(u32_at(bytes, 0))).map(|n| {
        let kind = walk.byte();
        let key = walk.bytes().to_vec();
        (key, first + n, kind, if kind == 0 { walk.bytes().to_vec() } else { Vec::new() })
    });
    let writes = writes.collect();
    assert!(walk.ended());
    writes
}

fn hash(key: &[u8]) -> u64 {
    fn fold(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        (wide >> 64) as u64 ^ wide as u64
    }
    let (k0, k1, k2) = (0xa0761d6478bd642f_u64, 0xe7037ed1a0b428db_u64, 0x8ebc6af09c88c6e3_u64);
    let mut s = k2 ^ fold(key.len() as u64 ^ k0, k1);
    for chunk in key.chunks(16) {
        let mut padded = [0; 16];
        padded[..chunk.len()].copy_from_slice(chunk);
        s = fold(u64_at(&padded, 0) ^ k0 ^ s, u64_at(&padded, 8) ^ k1);
    }
    fold(s ^ k0, k2)
}

fn may_hold(filter: &[u8], key: &[u8]) -> bool {
    assert_eq!((filter[0], filter[1]), (1, 6));
    let (h, lines) = (hash(key), u64::from(u32_at(filter, 4)));
    let line = &filter[8 + 64 * (((h >> 32) * lines) >> 32) as usize..][..64];
    let m = h.wrapping_mul(0x9e3779b97f4a7c15) >> 8;
    (0..6).map(|n| (m >> (9 * n)) as usize & 511).all(|bit| line[bit / 8] & 1 << (bit % 8) != 0)
}

/// The payload of a frame, whose checksum is checked, decompressed.
fn payload(file: &[u8], id: (u64, u64), offset: usize, length: usize) -> Vec<u8> {
    let (payload, frame) = file[offset..offset + length].split_at(length - 5);
    let mut summed = Vec::new();
    for number in [id.0, id.1, offset as u64] {
        summed.extend_from_slice(&number.to_le_bytes());
    }
    summed.extend_from_slice(payload);
    summed.push(frame[0]);
    assert_eq!(crc32c::crc32c(&summed), u32_at(frame, 1));
    match frame[0] {
        0 => payload.to_vec(),
        1 => zstd::stream::decode_all(payload).unwrap(),
        codec => panic!("codec {codec}"),
    }
}

/// The versions of a table; everything else of it is compared with them.
fn table(file: &[u8]) -> Vec<Version> {
    let footer = &file[file.len() - 96..];
    assert_eq!((&footer[88..], u32_at(footer, 84)), (&b"LSMSTOR1"[..], crc32c::crc32c(&footer[..84])));
    assert_eq!((u32_at(footer, 56), u32_at(footer, 60), u32_at(footer, 80)), (1, 0, 0));
    let id = (u64_at(footer, 64), u64_at(footer, 72));
    let part = |at| payload(file, id, u64_at(footer, at) as usize, u32_at(footer, at + 8) as usize);
    let (filter, index, properties) = (part(0), part(12), part(24));
    assert!(footer[36..48].iter().all(|&byte| byte == 0));
    assert_eq!(u64_at(footer, 48), u64_at(footer, 0));
    let count = u32_at(&index, index.len() - 4) as usize;
    let offsets = index.len() - 4 - 4 * count;
    let (mut versions, mut expected, mut walk) = (Vec::new(), 0, Walk::new(&index[..offsets]));
    for n in 0..count {
        assert_eq!(u32_at(&index, offsets + 4 * n) as usize, walk.at);
        let separator = walk.bytes().to_vec();
        let offset = u64_at(walk.take(8), 0) as usize;
        let length = u32_at(walk.take(4), 0) as usize;
        assert_eq!(offset, expected);
        expected += length;
        let found = block(&payload(file, id, offset, length));
        assert!(found.iter().all(|(key, ..)| key <= &separator && may_hold(&filter, key)));
        versions.extend(found);
    }
    assert!(walk.ended());
    assert_eq!(expected as u64, u64_at(footer, 48));
    let mut walk = Walk::new(&properties);
    assert_eq!((walk.bytes(), walk.bytes()), (&versions[0].0[..], &versions[versions.len() - 1].0[..]));
    let sequences = || versions.iter().map(|(_, sequence, ..)| *sequence);
    let sum = |of: fn(&Version) -> usize| versions.iter().map(of).sum::<usize>() as u64;
    let expected = [
        sequences().min().unwrap(),
        sequences().max().unwrap(),
        sum(|_| 1),
        sum(|(_, _, kind, _)| usize::from(*kind == 1)),
        sum(|(key, ..)| key.len()),
        sum(|(.., value)| value.len()),
        count as u64,
    ];
    assert_eq!(walk.varints::<7>(), expected);
    assert!(walk.bytes().starts_with(b"lsmstore "));
    versions
}

fn block(payload: &[u8]) -> Vec<Version> {
    let restarts = u32_at(payload, payload.len() - 4) as usize;
    let end = payload.len() - 4 - 4 * restarts;
    let (mut walk, mut key, mut versions) = (Walk::new(&payload[..end]), Vec::new(), Vec::new());
    while !walk.ended() {
        let number = versions.len();
        if number.is_multiple_of(16) {
            assert_eq!(u32_at(payload, end + 4 * (number / 16)) as usize, walk.at);
        }
        let [shared, unshared, length] = walk.varints();
        assert!(shared == 0 || !number.is_multiple_of(16));
        key.truncate(shared as usize);
        key.extend_from_slice(walk.take(unshared as usize));
        let tag = walk.varint();
        versions.push((key.clone(), tag >> 8, tag as u8, walk.take(length as usize).to_vec()));
    }
    assert_eq!(restarts, versions.len().div_ceil(16));
    versions
}

/// A table of a manifest: level, (epoch, counter, mirror length, object length), bytes behind the blocks.
type Listed = (u64, [u64; 4], u64);

/// Number, epoch, S, and the tables.
fn manifest(file: &[u8]) -> (u64, u64, u64, Vec<Listed>) {
    assert_eq!((&file[..8], u32_at(file, 8)), (&b"LSMMANI1"[..], 2));
    assert_eq!(u32_at(file, 12), crc32c::crc32c(&file[16..]));
    let body = zstd::stream::decode_all(&file[40..]).unwrap();
    let mut walk = Walk { bytes: &body, at: 32 };
    let [epoch, _floor, last, position] = walk.varints();
    assert_eq!((position, walk.byte(), walk.byte()), (0, 0, 1), "R, not clean, kept by the store");
    assert!(walk.take(16).iter().any(|&byte| byte != 0), "the folder has a name");
    for _ in 0..walk.varint() {
        let [_epoch, _slot] = walk.varints();
    }
    assert_eq!(walk.bytes(), b"");
    let mut tables = Vec::new();
    for level in 0..walk.varint() {
        for _ in 0..walk.varint() {
            let numbers = walk.varints();
            assert!(walk.bytes() <= walk.bytes());
            let [smallest, largest, entries, deletions, ranges, meta] = walk.varints();
            assert!(smallest <= largest && deletions <= entries && ranges == 0);
            tables.push((level, numbers, meta));
        }
    }
    assert_eq!((walk.varint(), walk.varint()), (1, 2), "the section of the log in the bucket");
    let mut log = Walk { bytes: walk.bytes(), at: 0 };
    assert_eq!((log.varint(), log.varints(), log.ended()), (1, [epoch, last / 100 + 1], true));
    assert!(walk.ended());
    (u64_at(file, 16), epoch, last, tables)
}

/// The batches of an object of the log.
fn log_object(file: &[u8], store: &[u8], place: (u64, u64)) -> Vec<Version> {
    let (records, trailer) = file.split_at(file.len() - 24);
    assert_eq!((u32_at(trailer, 12), &trailer[16..]), (crc32c::crc32c(&file[..file.len() - 12]), &b"LSMWEND1"[..]));
    let versions = log(records, store, place);
    assert_eq!((u32_at(trailer, 0), u64_at(trailer, 4)), (1, versions.last().unwrap().1));
    versions
}

/// The batches of a segment.
fn log(file: &[u8], store: &[u8], place: (u64, u64)) -> Vec<Version> {
    assert_eq!((&file[..8], u32_at(file, 8), u32_at(file, 12)), (&b"LSMWAL01"[..], 1, crc32c::crc32c(&file[16..64])));
    assert_eq!((&file[16..32], u64_at(file, 32), u64_at(file, 40)), (store, place.0, place.1));
    let (mut at, mut versions) = (64, Vec::new());
    while at < file.len() {
        let length = u32_at(file, at) as usize;
        let body = &file[at + 8..at + 8 + length];
        let mut summed = store.to_vec();
        for number in [place.0, place.1, at as u64, length as u64] {
            summed.extend_from_slice(&number.to_le_bytes());
        }
        summed.extend_from_slice(body);
        assert_eq!(u32_at(file, at + 4), crc32c::crc32c(&summed));
        assert!(u64_at(body, 0) <= at as u64);
        assert_eq!(body[16], 0);
        versions.extend(batch(&body[17..], u64_at(body, 8)));
        at += 8 + length;
    }
    versions
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn every_file_of_a_store_is_what_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let (bucket, local) = (dir.path().join("bucket"), dir.path().join("local"));
    let objects = objects::local(&bucket).unwrap();
    let config = Config::new(&local, "some/prefix").block_bytes(700).remote_log(true);
    let store = Store::open(config, objects, Arc::new(SystemEnv::new()), LogChoice::Own).await.unwrap();
    let mut written = Vec::new();
    for round in 0..3_u64 {
        let mut batch = Batch::new();
        let first = written.len() as u64 + 1;
        for n in 0..100 {
            let (key, value) = (format!("key {:04}", n * 7 % 100), format!("value {round} {n}").repeat(n as usize % 5));
            if n % 11 == 0 {
                batch.delete(key.as_bytes());
                written.push((key.into_bytes(), first + n, 1, Vec::new()));
            } else {
                batch.put(key.as_bytes(), value.as_bytes());
                written.push((key.into_bytes(), first + n, 0, value.into_bytes()));
            }
        }
        store.write(batch, Durability::Remote).await.unwrap();
        if round < 2 {
            store.flush().await.unwrap();
        }
    }
    let id = *store.store_id().as_bytes();
    drop(store);

    let manifests = files(&bucket.join("some/prefix/manifest"));
    assert!(manifests[2].ends_with("00000000000000000003"));
    let (number, epoch, last, tables) = manifest(&std::fs::read(&manifests[2]).unwrap());
    assert_eq!((manifests.len(), number, epoch, last, tables.len()), (3, 3, 1, 200, 2));
    let local_manifest = manifest(&std::fs::read(local.join("MANIFEST")).unwrap());
    assert_eq!((local_manifest.1, local_manifest.2, local_manifest.3.len()), (1, 200, 2));
    for (at, (level, [epoch, counter, mirror_len, object_len], meta_len)) in tables.into_iter().rev().enumerate() {
        assert_eq!(level, 0);
        let object = std::fs::read(bucket.join(format!("some/prefix/sst/{epoch:016x}/{counter:016x}.sst"))).unwrap();
        let mirror = std::fs::read(local.join(format!("mirror/{epoch:016x}-{counter:016x}.lsm"))).unwrap();
        assert_eq!((object.len() as u64, mirror.len() as u64), (object_len, mirror_len));
        for file in [&object, &mirror] {
            assert_eq!(file.len() as u64 - u64_at(&file[file.len() - 96..], 48), meta_len);
        }
        let mut expected = written[100 * at..100 * (at + 1)].to_vec();
        expected.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        assert_eq!(table(&object), expected);
        assert_eq!(table(&mirror), expected);
        assert!(object.len() < mirror.len(), "one of them is compressed");
    }
    let segment = files(&local.join("wal")).pop().unwrap();
    assert!(segment.ends_with("0000000000000001-0000000000000002.wal"), "{}", segment.display());
    assert_eq!(log(&std::fs::read(&segment).unwrap(), &id, (1, 2)), written[200..]);
    for number in 1..=3 {
        let object = std::fs::read(bucket.join(format!("some/prefix/wal/{:016x}/{number:016x}", 1))).unwrap();
        let expected = &written[100 * (number as usize - 1)..100 * number as usize];
        assert_eq!(log_object(&object, &id, (1, number)), expected);
    }
}
