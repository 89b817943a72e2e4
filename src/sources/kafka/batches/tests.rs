//! Batches as a broker would send them, made by hand.

use super::*;

/// Longer than any value of most tests.
const VALUE_MAX: usize = 64 << 20;

/// A record of a batch: the distance of its offset, and its value.
type TestRecord<'a> = (i64, Option<&'a [u8]>);

/// The properties of a batch that is not a plain one.
#[derive(Clone, Copy, Default)]
struct Kind {
    attributes: i16,
    producer: i64,
}

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

fn varint(into: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        into.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    into.push(bits as u8);
}

fn record(key: &[u8], (delta, value): TestRecord<'_>) -> Vec<u8> {
    let mut body = vec![0];
    varint(&mut body, 5);
    varint(&mut body, delta);
    varint(&mut body, key.len() as i64);
    body.extend(key);
    varint(&mut body, value.map_or(-1, |value| value.len() as i64));
    body.extend(value.unwrap_or_default());
    // One header, which is passed over.
    body.extend([2, 2, b'h', 2, b'v']);
    let mut record = Vec::new();
    varint(&mut record, body.len() as i64);
    record.extend(body);
    record
}

/// A batch at `base` whose last offset is `last` after it.
fn batch(base: i64, last: i32, kind: Kind, records: &[Vec<u8>]) -> Vec<u8> {
    let mut checked = Vec::new();
    checked.extend(kind.attributes.to_be_bytes());
    checked.extend(last.to_be_bytes());
    checked.extend([0; 16]);
    checked.extend(kind.producer.to_be_bytes());
    checked.extend([0; 6]);
    checked.extend((records.len() as i32).to_be_bytes());
    let body = records.concat();
    match kind.attributes & 7 {
        4 => checked.extend(zstd::encode_all(&body[..], 1).expect("zstd")),
        _ => checked.extend(body),
    }
    let mut batch = base.to_be_bytes().to_vec();
    batch.extend((9 + checked.len() as i32).to_be_bytes());
    batch.extend([0, 0, 0, 0, 2]);
    batch.extend(crc32c::crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

fn plain(base: i64, values: &[&str]) -> Vec<u8> {
    let numbered = (0..).zip(values);
    let records: Vec<_> =
        numbered.map(|(delta, value)| record(b"key", (delta, Some(value.as_bytes())))).collect();
    batch(base, values.len() as i32 - 1, Kind::default(), &records)
}

fn transactional(base: i64, producer: i64, value: &str) -> Vec<u8> {
    let kind = Kind { attributes: TRANSACTIONAL, producer };
    batch(base, 0, kind, &[record(b"", (0, Some(value.as_bytes())))])
}

/// The control batch that ends a transaction.
fn end(base: i64, producer: i64, commits: bool) -> Vec<u8> {
    let kind = Kind { attributes: TRANSACTIONAL | CONTROL, producer };
    let key = [0, 0, 0, u8::from(commits)];
    batch(base, 0, kind, &[record(&key, (0, Some(&[0; 6])))])
}

fn all(mut batches: Batches) -> (String, i64) {
    let mut text = Vec::new();
    while let Some(chunk) = batches.next_chunk().expect("batches") {
        assert_eq!(chunk.next, batches.position());
        text.extend(chunk.text);
    }
    (String::from_utf8(text).expect("UTF-8"), batches.position())
}

fn read(bytes: Vec<Vec<u8>>, position: i64, until: Option<i64>) -> (String, i64) {
    all(Batches::new(bytes.concat().into(), position, until, Vec::new(), VALUE_MAX))
}

#[test]
fn each_value_is_a_line() {
    let batches = vec![plain(0, &["a b", "", "c\n", "d\r", "\ne"]), plain(5, &["f"])];
    assert_eq!(read(batches, 0, None), ("a b\n\nc\nd\r\n\ne\nf\n".to_owned(), 6));
}

#[test]
fn reading_begins_and_ends_inside_batches() {
    let batches = || vec![plain(10, &["a", "b", "c"]), plain(13, &["d", "e"])];
    assert_eq!(read(batches(), 11, None), ("b\nc\nd\ne\n".to_owned(), 15));
    assert_eq!(read(batches(), 11, Some(14)), ("b\nc\nd\n".to_owned(), 14));
    assert_eq!(read(batches(), 13, Some(13)), (String::new(), 13));
    assert_eq!(read(batches(), 20, None), (String::new(), 20));
}

#[test]
fn tombstones_and_compacted_records_leave_no_line() {
    let records = [record(b"k", (2, Some(b"a"))), record(b"k", (5, None))];
    let compacted = batch(100, 9, Kind::default(), &records);
    let emptied = batch(110, 4, Kind::default(), &[]);
    assert_eq!(read(vec![compacted.clone(), emptied], 100, None), ("a\n".to_owned(), 115));
    // The range ends in a gap.
    assert_eq!(read(vec![compacted], 100, Some(104)), ("a\n".to_owned(), 104));
}

#[test]
fn aborted_transaction_is_left_out() {
    let batches = [
        transactional(0, 1, "aborted"),
        transactional(1, 2, "kept"),
        transactional(2, 1, "aborted too"),
        end(3, 1, false),
        transactional(4, 1, "next one of the same producer"),
        end(5, 2, true),
        plain(6, &["plain"]),
        end(7, 1, true),
    ];
    let aborted = vec![(1, 0)];
    let read = all(Batches::new(batches.concat().into(), 0, None, aborted.clone(), VALUE_MAX));
    assert_eq!(read, ("kept\nnext one of the same producer\nplain\n".to_owned(), 8));
    // The answer begins in the middle of the transaction.
    let rest = Batches::new(batches[2..].concat().into(), 2, None, aborted, VALUE_MAX);
    assert_eq!(all(rest), ("next one of the same producer\nplain\n".to_owned(), 8));
}

#[test]
fn compressed_batch_is_streamed_in_chunks() {
    let value = "x".repeat(1_000);
    let records: Vec<_> =
        (0..1_000).map(|delta| record(b"", (delta, Some(value.as_bytes())))).collect();
    let kind = Kind { attributes: 4, producer: -1 };
    let mut batches =
        Batches::new(batch(0, 999, kind, &records).into(), 0, None, Vec::new(), VALUE_MAX);
    let (mut chunks, mut bytes) = (0, 0);
    while let Some(chunk) = batches.next_chunk().expect("batches") {
        assert!(chunk.text.len() <= CHUNK_BYTES, "{}", chunk.text.len());
        (chunks, bytes) = (chunks + 1, bytes + chunk.text.len());
    }
    assert_eq!((bytes, batches.position()), (1_001_000, 1_000));
    assert!(chunks >= bytes / CHUNK_BYTES);
}

#[test]
fn long_value_is_a_chunk_of_its_own() {
    let long = "y".repeat(2 * CHUNK_BYTES);
    let mut batches =
        Batches::new(plain(0, &["a", &long, "b"]).into(), 0, None, Vec::new(), VALUE_MAX);
    let mut next = || batches.next_chunk().expect("batches").expect("a chunk");
    assert_eq!((next().text.len(), next().text.len(), next().text.len()), (2, long.len() + 1, 2));
}

#[test]
fn value_above_the_limit_is_skipped() {
    let bytes = plain(0, &["a", "too long", "b"]).into();
    let mut batches = Batches::new(bytes, 0, None, Vec::new(), 7);
    let chunk = batches.next_chunk().expect("batches").expect("a chunk");
    assert_eq!((&chunk.text[..], chunk.next, chunk.skipped), (&b"a\nb\n"[..], 3, Some((1, 1))));
}

#[test]
fn batch_that_is_cut_off_waits() {
    let whole = plain(0, &["a"]);
    let cut = plain(1, &["b"]);
    for bytes in [1, 20, cut.len() - 1] {
        let batches = vec![whole.clone(), cut[..bytes].to_vec()];
        assert_eq!(read(batches, 0, None), ("a\n".to_owned(), 1));
    }
}

#[test]
fn damaged_batch_is_refused_after_lines_before_it() {
    let mut damaged = plain(1, &["b"]);
    let last = damaged.len() - 3;
    damaged[last] ^= 1;
    let bytes = [plain(0, &["a"]), damaged].concat();
    let mut batches = Batches::new(bytes.into(), 0, None, Vec::new(), VALUE_MAX);
    let chunk = batches.next_chunk().expect("a whole batch").expect("a chunk");
    assert_eq!((&chunk.text[..], chunk.next), (&b"a\n"[..], 1));
    assert!(batches.next_chunk().is_err());
    assert_eq!(batches.position(), 1);
}

#[test]
fn random_bytes_never_panic() {
    let mut bytes = [plain(0, &["a", "b"]), transactional(2, 1, "c"), end(3, 1, true)].concat();
    let mut random = 7u64;
    for _ in 0..20_000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let at = (random >> 33) as usize % bytes.len();
        bytes[at] ^= (random >> 17) as u8;
        let mut batches = Batches::new(bytes.clone().into(), 0, None, vec![(1, 0)], VALUE_MAX);
        while let Ok(Some(_)) = batches.next_chunk() {}
        // The records by themselves, past the CRC.
        let mut records = RecordReader::new(0, bytes.clone().into()).expect("no codec");
        while let Ok(head) = records.head() {
            if records.skip(&head).is_err() {
                break;
            }
        }
    }
}
