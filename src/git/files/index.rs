//! An index file, version 2, with the trees that it comes to. Format: gitformat-index(5).

use super::list::{Kind, Listing, Shape};
use super::write::Stat;

/// The longest path whose length is in an entry's flags.
const LENGTH_MAX: usize = 0xfff;

/// The index of a listing whose files were written.
pub(super) fn format(listing: &Listing, stats: &[Stat]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(listing.files.len() * 112);
    bytes.extend_from_slice(b"DIRC");
    let number = |bytes: &mut Vec<u8>, value: u32| bytes.extend_from_slice(&value.to_be_bytes());
    number(&mut bytes, 2);
    number(&mut bytes, u32::try_from(listing.files.len()).unwrap_or(u32::MAX));
    for (file, stat) in listing.files.iter().zip(stats) {
        let start = bytes.len();
        let mode = match file.kind {
            Kind::Plain => 0o100_644,
            Kind::Executable => 0o100_755,
            Kind::Link => 0o120_000,
        };
        let ((seconds, nanoseconds), (user, group)) = (stat.changed, stat.owner);
        for value in [seconds, nanoseconds, stat.modified, 0, stat.device, stat.inode, mode, user, group, stat.size] {
            number(&mut bytes, value);
        }
        bytes.extend_from_slice(file.id.as_bytes());
        let length = u16::try_from(file.path.len().min(LENGTH_MAX)).unwrap_or(0);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&file.path);
        // One to eight zeros, to a multiple of eight.
        let end = start + ((bytes.len() - start + 8) & !7);
        bytes.resize(end, 0);
    }
    let trees: Vec<u8> = listing.trees.iter().flat_map(format_tree).collect();
    bytes.extend_from_slice(b"TREE");
    number(&mut bytes, u32::try_from(trees.len()).unwrap_or(0));
    bytes.extend_from_slice(&trees);
    // A checksum of zeros says that there is none (`index.skipHash`).
    bytes.resize(bytes.len() + 20, 0);
    bytes
}

fn format_tree(shape: &Shape) -> Vec<u8> {
    let counts = format!("\0{} {}\n", shape.files, shape.trees);
    [&shape.name, counts.as_bytes(), shape.id.as_bytes()].concat()
}
