//! Writes structures in the compact protocol of Thrift, which holds all metadata of a Parquet file.
//!
//! A structure is a sequence of fields, in ascending order of their numbers, and a zero. The head
//! of a field has its type and how far its number is from the field before it.

/// The type of a field or of the elements of a list.
#[derive(Clone, Copy, Debug)]
pub enum ThriftType {
    /// A boolean. In a list an element is a byte: 1 or 2.
    Bool = 2,
    /// An integer of 16 bits.
    I16 = 4,
    /// An integer of 32 bits, or the value of an enumeration.
    I32 = 5,
    /// An integer of 64 bits.
    I64 = 6,
    /// Bytes or text, after their length.
    Binary = 8,
    /// A list.
    List = 9,
    /// A structure or a union.
    Struct = 12,
}

/// A list whose length is below this has it in its head.
const SHORT_LIST: usize = 15;

/// The largest distance between two fields that the head of a field holds.
const NEAR_FIELD: i16 = 15;

/// Writes one structure, with those in it.
#[derive(Debug)]
pub struct ThriftWriter {
    bytes: Vec<u8>,
    /// The last field of each open structure, the outermost first.
    fields: Vec<i16>,
}

impl ThriftWriter {
    /// Begins a structure.
    pub fn new() -> Self {
        Self { bytes: Vec::new(), fields: vec![0] }
    }

    /// Ends the structure and returns its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.bytes
    }

    /// Ends the innermost structure that is open.
    pub fn end(&mut self) {
        self.bytes.push(0);
        self.fields.pop();
    }

    /// Begins the structure that is the field `id`.
    pub fn begin(&mut self, id: i16) {
        self.head(id, ThriftType::Struct as u8);
        self.fields.push(0);
    }

    /// Begins the structure that is the next element of a list.
    pub fn begin_element(&mut self) {
        self.fields.push(0);
    }

    /// Begins a list of `length` elements, which follow.
    pub fn list(&mut self, id: i16, elements: ThriftType, length: usize) {
        self.head(id, ThriftType::List as u8);
        if length < SHORT_LIST {
            self.bytes.push((length as u8) << 4 | elements as u8);
        } else {
            self.bytes.push((SHORT_LIST as u8) << 4 | elements as u8);
            put_varint(length as u64, &mut self.bytes);
        }
    }

    /// Writes the field `id` of 16 bits.
    pub fn i16(&mut self, id: i16, value: i16) {
        self.head(id, ThriftType::I16 as u8);
        self.integer(i64::from(value));
    }

    /// Writes the field `id` of 32 bits.
    pub fn i32(&mut self, id: i16, value: i32) {
        self.head(id, ThriftType::I32 as u8);
        self.integer(i64::from(value));
    }

    /// Writes the field `id` of 64 bits.
    pub fn i64(&mut self, id: i16, value: i64) {
        self.head(id, ThriftType::I64 as u8);
        self.integer(value);
    }

    /// Writes the boolean field `id`, whose value is its type.
    pub fn bool(&mut self, id: i16, value: bool) {
        self.head(id, if value { 1 } else { 2 });
    }

    /// Writes the field `id` of bytes or text.
    pub fn binary(&mut self, id: i16, value: &[u8]) {
        self.head(id, ThriftType::Binary as u8);
        self.binary_element(value);
    }

    /// Writes bytes or text as the next element of a list.
    pub fn binary_element(&mut self, value: &[u8]) {
        put_varint(value.len() as u64, &mut self.bytes);
        self.bytes.extend_from_slice(value);
    }

    /// Writes a boolean as the next element of a list.
    pub fn bool_element(&mut self, value: bool) {
        self.bytes.push(if value { 1 } else { 2 });
    }

    /// Writes an integer of any width, without a head: as the next element of a list.
    pub fn integer(&mut self, value: i64) {
        // Zigzag: small numbers are short, also negative ones.
        put_varint(((value << 1) ^ (value >> 63)) as u64, &mut self.bytes);
    }

    /// Writes the head of a field.
    fn head(&mut self, id: i16, kind: u8) {
        let last = self.fields.last_mut().map_or(0, |last| std::mem::replace(last, id));
        let distance = id - last;
        if (1..=NEAR_FIELD).contains(&distance) {
            self.bytes.push((distance as u8) << 4 | kind);
        } else {
            self.bytes.push(kind);
            self.integer(i64::from(id));
        }
    }
}

/// Appends a number, seven bits a byte, the lowest first.
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
