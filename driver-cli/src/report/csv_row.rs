//! A row of JSON as a row of CSV: the same fields in the same order, numbers digit by digit.

use std::fmt;

use serde::{
    Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Names and cells of a flat document. What has no value is empty.
///
/// # Errors
/// When it is no flat document.
pub fn cells(row: &impl Serialize) -> serde_json::Result<Vec<(String, String)>> {
    struct Flat;
    impl<'de> Visitor<'de> for Flat {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a flat document")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut cells = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                let cell = match value.get() {
                    "null" => String::new(),
                    text if text.starts_with('"') => {
                        serde_json::from_str(text).map_err(serde::de::Error::custom)?
                    }
                    plain => plain.to_owned(),
                };
                cells.push((name, cell));
            }
            Ok(cells)
        }
    }
    let text = serde_json::to_string(row)?;
    serde_json::Deserializer::from_str(&text).deserialize_map(Flat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doc::Milli;

    #[test]
    fn numbers_keep_their_digits_and_order() {
        #[derive(Serialize)]
        struct Row {
            zulu: Milli,
            alpha: Option<&'static str>,
            text: &'static str,
        }
        let row = Row {
            zulu: Milli(9_007_199_254_740_993_001),
            alpha: None,
            text: "a \"b\"\u{e4}",
        };
        let cells: Vec<_> = cells(&row).unwrap();
        let expected = [
            ("zulu", "9007199254740993.001"),
            ("alpha", ""),
            ("text", "a \"b\"\u{e4}"),
        ];
        assert!(
            cells
                .iter()
                .map(|(n, c)| (n.as_str(), c.as_str()))
                .eq(expected)
        );
    }
}
