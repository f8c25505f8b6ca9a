//! `Accept-Encoding`: how a page may be packed (RFC 9110 §12.5.3). Everything else is small, and a layer packs it.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_ENCODING;

use crate::feed::api::Coding;
use crate::serve::negotiate::parse_weight;

/// The coding that the client likes best; of equals the cheapest to make. What is not named is not used.
pub(super) fn accepted(headers: &HeaderMap) -> Coding {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut weights = [(Coding::Identity, None), (Coding::Gzip, None), (Coding::Zstd, None)];
    for item in values.flat_map(|value| value.split(',')) {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let named = match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Coding::Gzip,
            "zstd" => Coding::Zstd,
            "identity" => Coding::Identity,
            _ => continue,
        };
        let given =
            parameters.split(';').find_map(|part| part.trim().strip_prefix(['q', 'Q'])?.trim().strip_prefix('='));
        let Some(weight) = given.map_or(Some(1_000), |given| parse_weight(given.trim())) else { continue };
        for (coding, own) in &mut weights {
            if *coding == named {
                *own = Some(weight);
            }
        }
    }
    let [(_, identity), packed @ ..] = weights;
    let best = packed.into_iter().filter_map(|(coding, weight)| Some((weight?, coding)));
    match best.max_by_key(|(weight, _)| *weight) {
        // Plain bytes may always be sent, but are wanted only where they are named.
        Some((weight, coding)) if weight > 0 && weight >= identity.unwrap_or(0) => coding,
        _ => Coding::Identity,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_best_coding_is_taken() {
        let cases: [(&[&str], Coding); 12] = [
            (&[], Coding::Identity),
            (&[""], Coding::Identity),
            (&["gzip, deflate, br"], Coding::Gzip),
            (&["gzip, deflate, br, zstd"], Coding::Zstd),
            (&["zstd;q=0.5, gzip;q=0.8"], Coding::Gzip),
            (&["GZIP; Q=1.0"], Coding::Gzip),
            (&["gzip;q=0"], Coding::Identity),
            (&["gzip;q=0.5, identity"], Coding::Identity),
            (&["identity;q=0.5, gzip;q=0.5"], Coding::Gzip),
            (&["deflate", "x-gzip"], Coding::Gzip),
            (&["gzip;q=many, zstd;q=0.1"], Coding::Zstd),
            (&["*"], Coding::Identity),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(accepted(&headers), expected, "{values:?}");
        }
    }
}
