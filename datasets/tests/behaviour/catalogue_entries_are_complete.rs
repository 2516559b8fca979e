//! Every public set can be told by name, fetched, and read: its parts are among its files, in a format that is known.

use std::collections::BTreeSet;

use kriya_datasets::{CATALOGUE, Checksum, public_set};

#[test]
fn names_are_distinct_and_found() {
    let names: BTreeSet<&str> = CATALOGUE.iter().map(|set| set.name).collect();
    assert_eq!(names.len(), CATALOGUE.len());
    assert!(names.iter().all(|name| public_set(name).is_some_and(|set| set.name == *name)));
    assert_eq!(public_set("no-such-set"), None);
}

#[test]
fn parts_of_a_set_are_tables_of_its_files_or_files() {
    for set in CATALOGUE {
        assert!(set.parts[0].is_some() && set.parts[1].is_some(), "{}: rows and queries", set.name);
        for part in set.parts.iter().flatten() {
            let file = part.split(':').next().unwrap();
            assert!(set.files.iter().any(|f| f.name() == file), "{}: {part}", set.name);
        }
    }
}

#[test]
fn checksums_have_the_length_of_their_kind() {
    for file in CATALOGUE.iter().flat_map(|set| set.files) {
        let (digits, length) = match file.checksum {
            Some(Checksum::Md5(digits)) => (digits, 32),
            Some(Checksum::Sha256(digits)) => (digits, 64),
            None => continue,
        };
        let hexadecimal = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        assert!(digits.len() == length && hexadecimal, "{}", file.address);
    }
}
