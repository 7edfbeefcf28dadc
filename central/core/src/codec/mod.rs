//! How values become bytes in the ledger and in snapshots: by position and without names, so that
//! they are small and quickly read. What repeats (ids, versions, time zones, tariffs) is written
//! once and named by its distance from then on.
//!
//! A field that is added, a variant that is inserted and a number that is used anew make another
//! format: they raise the digit in the magic of frames and snapshots. The destructuring below and
//! the matches without `_` see to it that none is forgotten.
//!
//! Whatever the bytes are, reading them takes memory in proportion to their length: a count never
//! reserves more than [`RESERVED_MAX`], and what is named by its distance is short or shared.

mod model;
mod words;

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use ev_contract::{
    ids::{
        BootId, ConnectorId, CpId, DriverId, Epoch, OperatorId, RequestId, SessionId, SiteId,
        TariffId,
    },
    time::UnixMs,
    units::{Amount, Currency, MilliAmp, MilliWatt, Mwh},
    v1::{ConnectorSpec, Tariff, TariffTerms},
};
use hashbrown::{HashMap, HashSet};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::keys::EventId;

/// Values of one kind that can be named by their distance; then the table begins anew. More than
/// the largest frame has of any.
const SHARED_MAX: usize = 16_384;
/// The longest word that is shared. A longer one would let two bytes stand for much memory.
const SHARED_WORD_BYTES_MAX: usize = 16;
/// Most elements that are reserved before they were read.
const RESERVED_MAX: usize = 256;
/// Values of one kind that are kept to be shared between frames; then it begins anew. A fleet has
/// some sites, a few time zones and tariffs.
const INTERNED_MAX: usize = 16_384;

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad(pub &'static str);

pub(crate) type Got<T> = Result<T, Bad>;

/// A value that can be written and read.
pub(crate) trait Coded: Sized {
    fn put(&self, w: &mut Writer);
    fn get(r: &mut Reader<'_>) -> Got<Self>;
}

/// What a writer has written of one kind.
#[derive(Debug)]
struct Written<T> {
    index: HashMap<T, u32>,
    last: Option<(T, u32)>,
}

impl<T> Default for Written<T> {
    fn default() -> Self {
        Self {
            index: HashMap::default(),
            last: None,
        }
    }
}

impl<T: Hash + Eq + Clone> Written<T> {
    /// How far back a value is, counted from 1; none for one that must be written.
    fn distance<Q>(&mut self, value: &Q, own: impl FnOnce(&Q) -> T) -> Option<u32>
    where
        Q: Hash + hashbrown::Equivalent<T> + ?Sized,
    {
        let len = u32::try_from(self.index.len()).unwrap_or(u32::MAX);
        if let Some((last, at)) = &self.last
            && value.equivalent(last)
        {
            return Some(len - at);
        }
        if let Some((there, at)) = self.index.get_key_value(value) {
            self.last = Some((there.clone(), *at));
            return Some(len - at);
        }
        if self.index.len() >= SHARED_MAX {
            self.clear();
        }
        let at = u32::try_from(self.index.len()).unwrap_or(u32::MAX);
        let value = own(value);
        self.index.insert(value.clone(), at);
        self.last = Some((value, at));
        None
    }

    fn clear(&mut self) {
        self.index.clear();
        self.last = None;
    }
}

/// What a reader has read of one kind.
#[derive(Debug)]
struct Read<T>(Vec<T>);

impl<T> Default for Read<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Read<T> {
    fn at(&self, distance: u64) -> Got<T> {
        usize::try_from(distance)
            .ok()
            .and_then(|distance| self.0.len().checked_sub(distance))
            .and_then(|at| self.0.get(at))
            .cloned()
            .ok_or(Bad("it names a value that it does not have"))
    }

    fn add(&mut self, value: T) {
        if self.0.len() >= SHARED_MAX {
            self.0.clear();
        }
        self.0.push(value);
    }
}

macro_rules! tables {
    ($($field:ident: $type:ty,)+) => {
        #[derive(Debug, Default)]
        struct AllWritten { $($field: Written<$type>,)+ }
        #[derive(Debug, Default)]
        struct AllRead { $($field: Read<$type>,)+ }
        impl AllWritten {
            fn clear(&mut self) { $(self.$field.clear();)+ }
        }
        impl AllRead {
            fn clear(&mut self) { $(self.$field.0.clear();)+ }
        }
    };
}

tables! {
    words: Arc<str>,
    names: Arc<str>,
    cps: CpId,
    drivers: DriverId,
    operators: OperatorId,
    requests: RequestId,
    sites: SiteId,
    epochs: Epoch,
    tariff_ids: TariffId,
    sessions: SessionId,
    events: EventId,
    tariffs: Pinned,
}

/// Writes values.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    base_ms: i64,
    last_mwh: u64,
    written: AllWritten,
}

impl Writer {
    /// Times are written as their distance from `base`: that of most is small.
    pub fn new(base: UnixMs) -> Self {
        Self {
            base_ms: base.0,
            ..Self::default()
        }
    }

    pub const fn set_base(&mut self, base: UnixMs) {
        self.base_ms = base.0;
    }

    /// Nothing has been written.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.last_mwh = 0;
        self.written.clear();
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was written, and nothing else.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn reserve(&mut self, more: usize) {
        self.bytes.reserve(more);
    }

    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub fn byte(&mut self, byte: u8) {
        self.bytes.push(byte);
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A number, seven bits a byte, the lowest first.
    pub fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push(low_byte(n) | 0x80);
            n >>= 7;
        }
        self.bytes.push(low_byte(n));
    }

    /// A signed number, the sign in the lowest bit.
    pub fn signed(&mut self, n: i64) {
        self.number(((n << 1) ^ (n >> 63)).cast_unsigned());
    }

    pub fn count(&mut self, n: usize) {
        self.number(n as u64);
    }

    pub fn list<T: Coded>(&mut self, list: &[T]) {
        self.count(list.len());
        for value in list {
            value.put(self);
        }
    }

    fn blob(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// Writes a distance, or 0 for what must be written itself: then `true`.
    fn named(&mut self, distance: Option<u32>) -> bool {
        self.number(distance.map_or(0, u64::from));
        distance.is_none()
    }

    fn uuid(&mut self, uuid: Uuid) {
        let (ms, rest) = split(uuid);
        self.signed(ms.wrapping_sub(self.base_ms));
        self.raw(&rest);
    }

    /// An id's text. Many are UUIDs or hexadecimal.
    pub fn token(&mut self, text: &str) {
        if let Some(uuid) = hyphenated(text) {
            self.byte(0);
            self.raw(uuid.as_bytes());
            return;
        }
        let text = text.as_bytes();
        let packs = text.len() >= HEX_BYTES_MIN
            && text.len().is_multiple_of(2)
            && text.iter().all(|c| hex_digit(*c).is_some());
        self.number((text.len() as u64) << 1 | u64::from(packs));
        if packs {
            self.bytes.extend(text.chunks_exact(2).filter_map(hex_byte));
        } else {
            self.raw(text);
        }
    }

    /// A word that many values repeat.
    fn word(&mut self, word: &str) {
        if word.len() > SHARED_WORD_BYTES_MAX {
            self.number(0);
            self.blob(word.as_bytes());
            return;
        }
        let distance = self.written.words.distance(word, |word| Arc::from(word));
        if self.named(distance) {
            self.blob(word.as_bytes());
        }
    }
}

/// Shorter ids are written as they are.
const HEX_BYTES_MIN: usize = 8;

fn low_byte(n: u64) -> u8 {
    n.to_le_bytes()[0]
}

/// The time in a UUIDv7, and the rest; of any other UUID the first six bytes and the rest.
fn split(uuid: Uuid) -> (i64, [u8; 10]) {
    let (ms, rest) = uuid.as_bytes().split_at(6);
    let ms = ms.iter().fold(0, |n, byte| n << 8 | i64::from(*byte));
    let mut ten = [0; 10];
    ten.copy_from_slice(rest);
    (ms, ten)
}

/// A text that is exactly how a UUID is written.
fn hyphenated(text: &str) -> Option<Uuid> {
    if text.len() != 36 || text.as_bytes().get(8) != Some(&b'-') {
        return None;
    }
    let uuid = Uuid::try_parse(text).ok()?;
    let mut buffer = Uuid::encode_buffer();
    (uuid.hyphenated().encode_lower(&mut buffer) == text).then_some(uuid)
}

const fn hex_digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    }
}

fn hex_byte(two: &[u8]) -> Option<u8> {
    match two {
        [high, low] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

/// Values that many frames repeat, so that they lie in memory once: time zones, sites, versions,
/// tariffs, what charge points have.
#[derive(Debug, Clone, Default)]
pub struct Interner {
    texts: HashSet<Arc<str>>,
    sites: HashSet<SiteId>,
    tariffs: HashSet<Pinned>,
    specs: HashMap<u64, Arc<[ConnectorSpec]>>,
}

/// A tariff, to the last digit: amounts that are equal may be written with other zeros.
#[derive(Debug, Clone)]
struct Pinned(Arc<Tariff>);

impl Pinned {
    fn exactly(terms: &TariffTerms) -> impl Iterator<Item = [u8; 16]> + '_ {
        let elements = terms.elements.iter();
        let prices = elements.flat_map(|element| element.price_components.iter());
        prices
            .map(|price| price.price)
            .chain(terms.idle.map(|idle| idle.cap))
            .chain(terms.min_price)
            .chain(terms.max_price)
            .chain(terms.taxes.iter().map(|tax| tax.percent))
            .map(|amount| amount.0.serialize())
    }
}

impl PartialEq for Pinned {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0 == other.0 && Self::exactly(&self.0.terms).eq(Self::exactly(&other.0.terms)))
    }
}

impl Eq for Pinned {}

impl Hash for Pinned {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.tariff_id.hash(state);
        self.0.version.hash(state);
    }
}

impl Interner {
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        intern(&mut self.texts, text, |text| Arc::from(text))
    }

    pub(crate) fn site(&mut self, site: &SiteId) -> SiteId {
        intern(&mut self.sites, site, SiteId::clone)
    }

    pub(crate) fn tariff(&mut self, tariff: &Arc<Tariff>) -> Arc<Tariff> {
        intern(
            &mut self.tariffs,
            &Pinned(Arc::clone(tariff)),
            Pinned::clone,
        )
        .0
    }

    pub(crate) fn specs(&mut self, specs: &Arc<[ConnectorSpec]>) -> Arc<[ConnectorSpec]> {
        let hasher = self.specs.hasher();
        let key = specs
            .iter()
            .map(|s| hasher.hash_one((s.connector, s.max_ma, s.phases)))
            .fold(specs.len() as u64, |sum, one| sum.rotate_left(7) ^ one);
        match self.specs.get(&key) {
            Some(there) if there == specs => Arc::clone(there),
            Some(_) => Arc::clone(specs),
            None => {
                if self.specs.len() >= INTERNED_MAX {
                    self.specs.clear();
                }
                self.specs.insert(key, Arc::clone(specs));
                Arc::clone(specs)
            }
        }
    }
}

fn intern<T, Q>(kept: &mut HashSet<T>, value: &Q, own: impl FnOnce(&Q) -> T) -> T
where
    T: Clone + Eq + Hash,
    Q: Hash + hashbrown::Equivalent<T> + ?Sized,
{
    if let Some(there) = kept.get(value) {
        return there.clone();
    }
    if kept.len() >= INTERNED_MAX {
        kept.clear();
    }
    let value = own(value);
    kept.insert(value.clone());
    value
}

/// What readers keep from one reading to the next.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    read: AllRead,
    pub interner: Interner,
}

/// Reads values.
#[derive(Debug)]
pub(crate) struct Reader<'b> {
    rest: &'b [u8],
    base_ms: i64,
    last_mwh: u64,
    read: &'b mut AllRead,
    interner: &'b mut Interner,
}

impl<'b> Reader<'b> {
    pub fn new(bytes: &'b [u8], kept: &'b mut Kept) -> Self {
        kept.read.clear();
        Self {
            rest: bytes,
            base_ms: 0,
            last_mwh: 0,
            read: &mut kept.read,
            interner: &mut kept.interner,
        }
    }

    pub fn set_base(&mut self, base: UnixMs) {
        self.base_ms = base.0;
    }

    /// Nothing may be left.
    pub fn end(&self) -> Got<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Bad("something follows its end"))
        }
    }

    pub fn byte(&mut self) -> Got<u8> {
        let (first, rest) = self.rest.split_first().ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(*first)
    }

    pub fn raw(&mut self, len: usize) -> Got<&'b [u8]> {
        let (raw, rest) = self.rest.split_at_checked(len).ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(raw)
    }

    pub fn array<const N: usize>(&mut self) -> Got<[u8; N]> {
        let (raw, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT_OFF)?;
        self.rest = rest;
        Ok(*raw)
    }

    pub fn number(&mut self) -> Got<u64> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        let mut n = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && part > 1) {
                return Err(Bad("a number is too large"));
            }
            n |= part << shift;
            if byte < 0x80 {
                return Ok(n);
            }
            shift += 7;
        }
    }

    pub fn signed(&mut self) -> Got<i64> {
        let n = self.number()?;
        Ok((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    /// A count of what takes at least a byte each.
    pub fn count(&mut self) -> Got<usize> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|n| *n <= self.rest.len())
            .ok_or(Bad("a count is larger than what follows"))
    }

    pub fn list<T: Coded>(&mut self) -> Got<Vec<T>> {
        let count = self.count()?;
        let mut list = Vec::with_capacity(count.min(RESERVED_MAX));
        for _ in 0..count {
            list.push(T::get(self)?);
        }
        Ok(list)
    }

    fn blob(&mut self) -> Got<&'b [u8]> {
        let len = self.count()?;
        self.raw(len)
    }

    fn uuid(&mut self) -> Got<Uuid> {
        let ms = self.signed()?.wrapping_add(self.base_ms);
        let high = ms.to_be_bytes();
        if high[..2] != [0, 0] {
            return Err(Bad("an id's time is out of range"));
        }
        let rest = self.array::<10>()?;
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&high[2..]);
        bytes[6..].copy_from_slice(&rest);
        Ok(Uuid::from_bytes(bytes))
    }

    pub fn token<T>(&mut self, make: impl FnOnce(&str) -> Option<T>) -> Got<T> {
        const NO_ID: Bad = Bad("it holds an id that is none");
        let head = self.number()?;
        if head == 0 {
            let uuid = Uuid::from_bytes(self.array()?);
            let mut buffer = Uuid::encode_buffer();
            return make(uuid.hyphenated().encode_lower(&mut buffer)).ok_or(NO_ID);
        }
        let len = usize::try_from(head >> 1).map_err(|_| CUT_OFF)?;
        if len > ev_contract::ids::ID_BYTES_MAX {
            return Err(NO_ID);
        }
        if head & 1 == 0 {
            let text = std::str::from_utf8(self.raw(len)?).map_err(|_| NO_ID)?;
            return make(text).ok_or(NO_ID);
        }
        let mut buffer = [0; ev_contract::ids::ID_BYTES_MAX];
        let raw = self.raw(len / 2)?;
        for (two, byte) in buffer.chunks_exact_mut(2).zip(raw) {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            two[0] = DIGITS[usize::from(byte >> 4)];
            two[1] = DIGITS[usize::from(byte & 15)];
        }
        let text = std::str::from_utf8(&buffer[..raw.len() * 2]).map_err(|_| NO_ID)?;
        make(text).ok_or(NO_ID)
    }

    fn utf8(&mut self) -> Got<&'b str> {
        std::str::from_utf8(self.blob()?).map_err(|_| Bad("a text is not UTF-8"))
    }

    fn word(&mut self) -> Got<String> {
        let distance = self.number()?;
        if distance > 0 {
            return self
                .read
                .words
                .at(distance)
                .map(|word| String::from(&*word));
        }
        let word = self.utf8()?;
        if word.len() <= SHARED_WORD_BYTES_MAX {
            self.read.words.add(Arc::from(word));
        }
        Ok(word.to_owned())
    }
}

const CUT_OFF: Bad = Bad("it is cut off");

macro_rules! numbers {
    ($($type:ty),+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                w.number(u64::from(*self));
            }
            fn get(r: &mut Reader<'_>) -> Got<Self> {
                Self::try_from(r.number()?).map_err(|_| Bad("a number is too large"))
            }
        }
    )+};
}

numbers!(u8, u16, u32, u64);

impl Coded for BootId {
    fn put(&self, w: &mut Writer) {
        w.number(self.number());
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.number().map(Self::from_number)
    }
}

impl Coded for i64 {
    fn put(&self, w: &mut Writer) {
        w.signed(*self);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.signed()
    }
}

impl Coded for bool {
    fn put(&self, w: &mut Writer) {
        w.byte(u8::from(*self));
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Bad("a truth is neither")),
        }
    }
}

impl Coded for UnixMs {
    fn put(&self, w: &mut Writer) {
        w.signed(self.0.wrapping_sub(w.base_ms));
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(Self(r.signed()?.wrapping_add(r.base_ms)))
    }
}

/// Registers are written as the distance from the one before: those of a session are near.
impl Coded for Mwh {
    fn put(&self, w: &mut Writer) {
        w.signed(self.0.wrapping_sub(w.last_mwh).cast_signed());
        w.last_mwh = self.0;
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.last_mwh = r.last_mwh.wrapping_add(r.signed()?.cast_unsigned());
        Ok(Self(r.last_mwh))
    }
}

macro_rules! wrapped {
    ($($type:ident),+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                self.0.put(w);
            }
            fn get(r: &mut Reader<'_>) -> Got<Self> {
                Coded::get(r).map($type)
            }
        }
    )+};
}

wrapped!(MilliWatt, MilliAmp, ConnectorId);

/// The number of decimals, whether the digits need two numbers, and the sign; then the digits.
impl Coded for Amount {
    fn put(&self, w: &mut Writer) {
        let digits = self.0.mantissa().unsigned_abs();
        let (high, low) = ((digits >> 64) as u64, digits as u64);
        let scale = self.0.scale().to_le_bytes()[0];
        let (wide, negative) = (u8::from(high > 0), u8::from(self.0.is_sign_negative()));
        w.byte(scale << 2 | wide << 1 | negative);
        w.number(low);
        if high > 0 {
            w.number(high);
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        const NO_AMOUNT: Bad = Bad("an amount is none");
        let head = r.byte()?;
        let low = r.number()?;
        let high = if head & 2 == 0 { 0 } else { r.number()? };
        if high > u64::from(u32::MAX) {
            return Err(NO_AMOUNT);
        }
        let digits = i128::from(high) << 64 | i128::from(low);
        let mut amount = Decimal::try_from_i128_with_scale(digits, u32::from(head >> 2))
            .map_err(|_| NO_AMOUNT)?;
        amount.set_sign_negative(head & 1 == 1);
        Ok(Self(amount))
    }
}

impl Coded for Currency {
    fn put(&self, w: &mut Writer) {
        w.raw(self.as_str().as_bytes());
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        std::str::from_utf8(&r.array::<3>()?)
            .ok()
            .and_then(|code| code.parse().ok())
            .ok_or(Bad("a currency is none"))
    }
}

impl Coded for String {
    fn put(&self, w: &mut Writer) {
        w.blob(self.as_bytes());
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.utf8().map(Self::from)
    }
}

/// A name that many values repeat; in memory once, for all frames.
impl Coded for Arc<str> {
    fn put(&self, w: &mut Writer) {
        let distance = w.written.names.distance(self, Self::clone);
        if w.named(distance) {
            w.blob(self.as_bytes());
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        let distance = r.number()?;
        if distance > 0 {
            return r.read.names.at(distance);
        }
        let name = r.utf8()?;
        let name = r.interner.text(name);
        r.read.names.add(Self::clone(&name));
        Ok(name)
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, w: &mut Writer) {
        w.byte(u8::from(self.is_some()));
        if let Some(value) = self {
            value.put(w);
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok(if bool::get(r)? {
            Some(T::get(r)?)
        } else {
            None
        })
    }
}

impl<T: Coded> Coded for Vec<T> {
    fn put(&self, w: &mut Writer) {
        w.list(self);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        r.list()
    }
}

impl<T: Coded> Coded for Box<T> {
    fn put(&self, w: &mut Writer) {
        (**self).put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        T::get(r).map(Self::new)
    }
}

impl<T: Coded> Coded for Arc<T> {
    fn put(&self, w: &mut Writer) {
        (**self).put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        T::get(r).map(Self::new)
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
        self.1.put(w);
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        Ok((A::get(r)?, B::get(r)?))
    }
}

macro_rules! tokens {
    ($($type:ident in $table:ident;)+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                let distance = w.written.$table.distance(self, Self::clone);
                if w.named(distance) {
                    w.token(self.as_str());
                }
            }
            fn get(r: &mut Reader<'_>) -> Got<Self> {
                match r.number()? {
                    0 => {
                        let id = r.token(|text| Self::new(text).ok())?;
                        r.read.$table.add(id.clone());
                        Ok(id)
                    }
                    distance => r.read.$table.at(distance),
                }
            }
        }
    )+};
}

tokens! {
    CpId in cps;
    DriverId in drivers;
    OperatorId in operators;
    RequestId in requests;
    Epoch in epochs;
    TariffId in tariff_ids;
}

impl Coded for SiteId {
    fn put(&self, w: &mut Writer) {
        let distance = w.written.sites.distance(self, Self::clone);
        if w.named(distance) {
            w.token(self.as_str());
        }
    }
    fn get(r: &mut Reader<'_>) -> Got<Self> {
        match r.number()? {
            0 => {
                let id = r.token(|text| Self::new(text).ok())?;
                let id = r.interner.site(&id);
                r.read.sites.add(id.clone());
                Ok(id)
            }
            distance => r.read.sites.at(distance),
        }
    }
}

macro_rules! uuids {
    ($($type:ident in $table:ident, $wrap:expr, $uuid:expr;)+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                let distance = w.written.$table.distance(self, Self::clone);
                if w.named(distance) {
                    w.uuid($uuid(*self));
                }
            }
            fn get(r: &mut Reader<'_>) -> Got<Self> {
                match r.number()? {
                    0 => {
                        let id = $wrap(r.uuid()?);
                        r.read.$table.add(id);
                        Ok(id)
                    }
                    distance => r.read.$table.at(distance),
                }
            }
        }
    )+};
}

uuids! {
    SessionId in sessions, SessionId::from_uuid, SessionId::uuid;
    EventId in events, EventId, |id: EventId| id.0;
}
