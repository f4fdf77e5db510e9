//! Every loader of a small file, fed anything: no panic, and no more memory than the file has bytes.

use model::crc32c;
use runtime::random::Random;
use storage::directory::catalog::Catalog;
use storage::directory::data_dir::Superblock;
use storage::log::index::SegmentIndex;
use storage::log::leader_epochs::LeaderEpochs;

#[global_allocator]
static ALLOCATOR: runtime::allocations::Counting = runtime::allocations::Counting;

/// Random fields behind the right magic, with a right checksum: what only the counts can refuse.
#[test]
fn any_file_with_a_right_checksum_is_read_or_refused() {
    let rounds = std::env::var("WEIR_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(40_000);
    let mut random = Random::new(5);
    let (mut read, mut refused) = (0u64, 0u64);
    for _ in 0..rounds {
        let mut bytes = vec![0; random.below(200) as usize];
        // Small numbers look like counts that fit; large ones must not be believed.
        for byte in &mut bytes {
            *byte = if random.one_in(4) { random.next_u64() as u8 } else { random.below(3) as u8 };
        }
        let magic: &[u8; 8] =
            [b"WEIRSUPR", b"WEIRCATL", b"WEIRIDX1", b"WEIREPOC"][random.below(4) as usize];
        let mut file = magic.to_vec();
        if random.one_in(2) {
            file.extend_from_slice(&2u32.to_be_bytes());
        }
        file.extend_from_slice(&bytes);
        let crc = crc32c::checksum(&file);
        file.extend_from_slice(&crc.to_be_bytes());
        let before = runtime::allocations::count();
        let ok = [
            Superblock::decode(&file).is_ok(),
            Catalog::decode(&file).is_some(),
            SegmentIndex::decode(&file, random.next_u64()).is_some(),
            LeaderEpochs::decode(&file).is_some(),
        ];
        let allocations = runtime::allocations::count() - before;
        assert!(allocations <= 16 + file.len() as u64, "{allocations} for {} bytes", file.len());
        if ok.contains(&true) { read += 1 } else { refused += 1 }
    }
    assert!(read > rounds / 100 && refused > rounds / 100, "read {read}, refused {refused}");
}
