//! The documents of an index: their ids, their mappings, and their JSON.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::epoch::Epoch;
use crate::hex_varint::hex;
use crate::operators::Tally;
use crate::outputs::publication::Publication;

/// The longest word, in characters, that is indexed. Four bytes a character stay below the limit of
/// a term, which is 32,766 bytes. Longer words are kept and cannot be searched for.
const IGNORE_ABOVE: u64 = 8191;

/// The names of the indexes of one output.
#[derive(Clone, Debug)]
pub struct IndexNames {
    /// The index of rows.
    pub rows: String,
    /// The index of markers.
    pub epochs: String,
    /// The index of the claim.
    pub claims: String,
}

impl IndexNames {
    /// Returns the names that belong to the index `rows`.
    pub fn of(rows: &str) -> IndexNames {
        IndexNames {
            rows: rows.to_owned(),
            epochs: format!("{rows}-epochs"),
            claims: format!("{rows}-wordtide"),
        }
    }
}

/// Returns the fields of rows, each with its type: those of words with counts, and those of lines.
pub fn row_fields() -> Value {
    let keyword = json!({"type": "keyword", "ignore_above": IGNORE_ABOVE});
    let long = json!({"type": "long"});
    json!({
        "epoch": long,
        "@timestamp": {"type": "date"},
        "word": keyword,
        "count": long,
        "part": long,
        "row_number": long,
        "line": keyword,
    })
}

/// Returns the fields of markers, each with its type.
pub fn marker_fields() -> Value {
    let mut fields = json!({});
    for name in ["epoch", "lines", "words", "rows", "committed_at"] {
        fields[name] = json!({"type": "long"});
    }
    for name in ["output", "job", "state"] {
        fields[name] = json!({"type": "keyword"});
    }
    fields
}

/// Returns the request that makes an index with these fields and no others.
pub fn index_of(fields: &Value) -> Value {
    json!({"mappings": {"dynamic": "strict", "properties": fields}})
}

/// Returns the request that makes the index of claims, which searches over all indexes leave out.
pub fn claims_index() -> Value {
    json!({
        "settings": {"index": {"hidden": true, "number_of_shards": 1}},
        "mappings": {"dynamic": "strict", "properties": {
            "key": {"type": "keyword"},
            "text": {"type": "keyword", "index": false, "doc_values": false},
        }},
    })
}

/// Returns the first of the fields `wanted` that `found` has with another type.
pub fn other_type<'a>(found: &Value, wanted: &'a Value) -> Option<&'a str> {
    let fields = wanted.as_object()?;
    let differs = |name: &&String| {
        let there = &found[name.as_str()]["type"];
        !there.is_null() && *there != wanted[name.as_str()]["type"]
    };
    fields.keys().find(differs).map(String::as_str)
}

/// Appends the two lines of a bulk request that create the document of a word.
pub fn push_count(epoch: Epoch, word: &[u8], count: i64, out: &mut Vec<u8>) {
    let hash = hex(&Sha256::digest(word));
    let word = Value::from(String::from_utf8_lossy(word));
    let document = format!(
        "{{\"create\":{{\"_id\":\"{epoch}-{hash}\"}}}}\n\
         {{\"epoch\":{epoch},\"@timestamp\":{epoch},\"word\":{word},\"count\":{count}}}\n"
    );
    out.extend_from_slice(document.as_bytes());
}

/// The longest word, in bytes, that is an id by itself. The servers take ids of up to 512 bytes.
const WORD_ID_BYTES_MAX: usize = 256;

/// Returns the id of a word in an index that has one document a word: the word itself. A word that
/// is empty, long, ill-formed or begins with a blank has a blank and its SHA-256, so that no two
/// words have the same id.
pub fn word_id(word: &[u8]) -> String {
    match std::str::from_utf8(word) {
        Ok(text) if (1..=WORD_ID_BYTES_MAX).contains(&text.len()) && !text.starts_with(' ') => {
            text.to_owned()
        }
        _ => format!(" {}", hex(&Sha256::digest(word))),
    }
}

/// Appends the two lines of a bulk request that write the document of a word over an earlier one.
/// The epoch is the version, so a request that is late never replaces a newer document.
pub fn push_word(epoch: Epoch, word: &[u8], count: i64, out: &mut Vec<u8>) {
    let (id, word) = (Value::from(word_id(word)), Value::from(String::from_utf8_lossy(word)));
    let document = format!(
        "{{\"index\":{{\"_id\":{id},\"version\":{epoch},\"version_type\":\"external_gte\"}}}}\n\
         {{\"epoch\":{epoch},\"@timestamp\":{epoch},\"word\":{word},\"count\":{count}}}\n"
    );
    out.extend_from_slice(document.as_bytes());
}

/// Appends the two lines of a bulk request that create the document of a line.
pub fn push_line(epoch: Epoch, part: u32, row: u64, line: &[u8], out: &mut Vec<u8>) {
    let line = Value::from(String::from_utf8_lossy(line));
    let document = format!(
        "{{\"create\":{{\"_id\":\"{epoch}-{part}-{row}\"}}}}\n\
         {{\"epoch\":{epoch},\"@timestamp\":{epoch},\"part\":{part},\"row_number\":{row},\
         \"line\":{line}}}\n"
    );
    out.extend_from_slice(document.as_bytes());
}

/// Returns the marker of an epoch.
pub fn marker(
    names: &IndexNames,
    publication: &Publication,
    epoch: Epoch,
    tally: Tally,
    rows: u64,
    committed_at: u64,
) -> Value {
    json!({
        "output": names.rows,
        "epoch": epoch,
        "job": publication.job,
        "state": publication.state,
        "lines": tally.lines,
        "words": tally.words,
        "rows": rows,
        "committed_at": committed_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(bytes).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    #[test]
    fn rows_become_documents_with_their_own_ids() {
        let mut out = Vec::new();
        for word in [&b"a\"\\\n"[..], b"A", "日本".as_bytes(), b"\xff", b""] {
            push_count(1_000, word, 7, &mut out);
        }
        let lines = parse(&out);
        let words: Vec<_> = lines.iter().skip(1).step_by(2).map(|row| &row["word"]).collect();
        assert_eq!(words, ["a\"\\\n", "A", "日本", "\u{fffd}", ""]);
        let ids: std::collections::BTreeSet<_> =
            lines.iter().step_by(2).map(|action| action["create"]["_id"].to_string()).collect();
        assert_eq!(ids.len(), 5);
        // printf a | sha256sum
        let mut out = Vec::new();
        push_count(5, b"a", 1, &mut out);
        let id = "5-ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb";
        assert_eq!(parse(&out)[0]["create"]["_id"], id);
    }

    #[test]
    fn words_are_ids_unless_they_cannot() {
        for word in ["a", "日本", "\"\\", &"x".repeat(256)] {
            assert_eq!(word_id(word.as_bytes()), word);
        }
        let odd = [&b""[..], b" ", b" a", b"\xff", b"\xfe", &[b'x'; 257], &[b'x'; 258]];
        let ids: std::collections::BTreeSet<_> = odd.into_iter().map(word_id).collect();
        assert_eq!(ids.len(), odd.len());
        assert!(ids.iter().all(|id| id.starts_with(' ') && id.len() == 65));
        let mut out = Vec::new();
        push_word(7, b"a\"", 2, &mut out);
        let version = json!({"_id": "a\"", "version": 7, "version_type": "external_gte"});
        assert_eq!(parse(&out)[0]["index"], version);
    }

    #[test]
    fn other_types_are_found() {
        let wanted = row_fields();
        assert_eq!(other_type(&json!({}), &wanted), None);
        assert_eq!(other_type(&wanted, &wanted), None);
        assert_eq!(other_type(&json!({"word": {"type": "text"}}), &wanted), Some("word"));
    }
}
