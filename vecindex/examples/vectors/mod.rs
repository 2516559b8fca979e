//! What the examples share: reading sets of vectors, and time that others on the machine do not count in.

use std::error::Error;
use std::io::Read;

/// A file, unpacked if its name ends in `.gz`.
pub fn bytes(path: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let raw = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    if !path.ends_with(".gz") {
        return Ok(raw);
    }
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&raw[..]).read_to_end(&mut out)?;
    Ok(out)
}

/// Rows of `.fbin`, `.u8bin`, `.f16bin` or `idx3-ubyte` files, each also with `.gz`.
pub fn read(path: &str) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let bytes = bytes(path)?;
    let name = path.trim_end_matches(".gz");
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    let (dim, values): (usize, Vec<f32>) = if name.ends_with("idx3-ubyte") {
        (usize::from(bytes[11]) * usize::from(bytes[15]), bytes[16..].iter().map(|b| f32::from(*b)).collect())
    } else if name.ends_with(".u8bin") {
        (word(4), bytes[8..].iter().map(|b| f32::from(*b)).collect())
    } else if name.ends_with(".f16bin") {
        let halves = bytes[8..].chunks_exact(2);
        (word(4), halves.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
    } else {
        (word(4), bytes[8..].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    Ok(values.chunks_exact(dim).map(<[f32]>::to_vec).collect())
}

/// Seconds of processor time that this thread has used.
pub fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}
