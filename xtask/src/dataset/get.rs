//! `cargo xtask dataset list` and `get`: the public sets, and one of them brought here.

use std::fs;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use kriya_datasets::{CATALOGUE, PublicFile, PublicSet, public_set, vectors};

use super::checksum::{Sums, record, recorded};
use super::fetch::{Watch, fetch};
use super::{GetOptions, name, truth};
use crate::failure::{Failure, Outcome};
use crate::places;

/// Prints what there is.
pub fn list() {
    for set in CATALOGUE {
        let shape = format!("{} x {}", set.rows, set.dim);
        let (metric, queries) = (name(set.metric), set.queries);
        println!("{:<30} {shape:>16} {metric:<7} {queries:>6} queries  {}", set.name, set.about);
    }
}

/// Fetches every file of a set that is not there yet, and looks whether it holds what the catalogue says.
///
/// # Errors
/// A name that is not known; what fetching, checking or reading says.
pub fn get(options: &GetOptions) -> Outcome<()> {
    let set = public_set(&options.name)
        .ok_or_else(|| Failure::new(format!("no set is called {:?}; `dataset list` names them all", options.name)))?;
    let folder = options.to.clone().unwrap_or_else(places::shared_datasets).join(set.name);
    fs::create_dir_all(&folder).map_err(Failure::doing("making", &folder))?;
    for file in set.files {
        provide(&folder, file, &Bar::new(file.name()))?;
    }
    check(set, &folder)?;
    for (part, flag) in set.parts.iter().zip(["--base", "--query", "--gt"]) {
        if let Some(part) = part {
            println!("{flag} {}", folder.join(part).display());
        }
    }
    Ok(())
}

/// Sees to it that a file is there with the right bytes: fetches it, or reads through the one that is there.
fn provide(folder: &Path, file: &PublicFile, watch: &impl Watch) -> Outcome<()> {
    let path = folder.join(file.name());
    let known = recorded(folder, file.name())?;
    let right = |sums: &Sums| {
        let published = file.checksum.and_then(|checksum| sums.differs(checksum));
        let remembered = || {
            let (bytes, sha256) = known.as_ref()?;
            let same = sums.bytes == *bytes && sums.sha256 == *sha256;
            (!same).then(|| format!("its SHA-256 is {}, the first download's was {sha256}", sums.sha256))
        };
        published.or_else(remembered)
    };
    if path.exists() {
        let sums = Sums::of(&path)?;
        return match right(&sums) {
            None if known.is_none() && file.checksum.is_none() => Err(Failure::new(format!(
                "{} is there, but nothing is known to compare it with: remove it to fetch it, or name it as it is",
                path.display()
            ))),
            None => {
                println!("{} is there, {} bytes", path.display(), sums.bytes);
                Ok(())
            }
            Some(why) => Err(Failure::new(format!("{}: {why}; remove it to fetch it again", path.display()))),
        };
    }
    let sums = fetch(file.address, &path, right, watch)?;
    if known.is_none() {
        record(folder, file.name(), &sums, file.address)?;
    }
    println!("{}: {} bytes, SHA-256 {}", path.display(), sums.bytes, sums.sha256);
    Ok(())
}

/// Compares the extents of rows and queries with the catalogue's.
fn check(set: &PublicSet, folder: &Path) -> Outcome<()> {
    let expected = [(set.rows, set.dim), (set.queries, set.dim)];
    for (part, expected) in set.parts.iter().zip(expected) {
        let Some(part) = part else { continue };
        let read = vectors(&folder.join(part))?;
        if (read.len(), read.dim()) != expected {
            let (rows, dim) = expected;
            return Err(Failure::new(format!(
                "{part} holds {} x {}, the catalogue says {rows} x {dim}: the published file is another one now",
                read.len(),
                read.dim()
            )));
        }
    }
    Ok(())
}

/// How far it is, on a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new(name: &str) -> Bar {
        let bar = ProgressBar::no_length().with_message(name.to_owned());
        let template = "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
        let style: ProgressStyle = truth::style(template);
        bar.set_style(style);
        Bar(bar)
    }
}

impl Watch for Bar {
    fn at(&self, bytes: u64, of: Option<u64>) {
        if let Some(of) = of {
            self.0.set_length(of);
        }
        self.0.set_position(bytes);
        if of == Some(bytes) {
            self.0.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kriya_datasets::Checksum;

    struct Silent;
    impl Watch for Silent {
        fn at(&self, _: u64, _: Option<u64>) {}
    }

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_that_is_there_is_compared_with_what_is_known_of_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "abc").unwrap();
        let file = |checksum| PublicFile { address: "http://127.0.0.1:9/a", checksum };
        let said = |checksum| provide(folder.path(), &file(checksum), &Silent).map_err(|e| e.to_string());
        assert!(said(None).unwrap_err().contains("nothing is known"));
        assert_eq!(said(Some(Checksum::Sha256(ABC))), Ok(()));
        assert_eq!(said(Some(Checksum::Md5("900150983cd24fb0d6963f7d28e17f72"))), Ok(()));
        let wrong = said(Some(Checksum::Md5("00000000000000000000000000000000"))).unwrap_err();
        assert!(wrong.contains("its MD5 is 900150983cd24fb0d6963f7d28e17f72"), "{wrong}");
        let sums = Sums { bytes: 3, md5: String::new(), sha256: ABC.to_owned() };
        record(folder.path(), "a", &sums, "http://127.0.0.1:9/a").unwrap();
        assert_eq!(said(None), Ok(()));
        fs::write(folder.path().join("a"), "abd").unwrap();
        assert!(said(None).unwrap_err().contains("the first download's was ba7816bf"));
    }
}
