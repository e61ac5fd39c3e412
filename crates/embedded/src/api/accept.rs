//! Content negotiation: which representation of an object the caller wants.

use hansa_machinery::Status;

/// The representation of objects in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects themselves.
    #[default]
    Whole,
    /// `PartialObjectMetadata` of this version of `meta.k8s.io`.
    Metadata(String),
    /// `Table` of this version of `meta.k8s.io`.
    Table(String),
}

/// One media range of an `Accept` header that asks for JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    /// `as`: `Table`, `APIGroupDiscoveryList`, …
    pub(crate) kind: String,
    /// `g`
    pub(crate) group: String,
    /// `v`
    pub(crate) version: String,
    /// `profile`
    pub(crate) profile: String,
}

/// The media ranges that can be served as JSON, in the caller's order of preference.
pub(crate) fn ranges(header: &str) -> Vec<Range> {
    let json = |media_type: &str| matches!(media_type, "application/json" | "application/*" | "*/*");
    preferences(header).into_iter().filter(|(name, _)| json(name)).map(|(_, range)| range).collect()
}

/// The media types of an `Accept` header, in the caller's order of preference.
pub(crate) fn media_types(header: &str) -> Vec<String> {
    preferences(header).into_iter().map(|(name, _)| name).collect()
}

fn preferences(header: &str) -> Vec<(String, Range)> {
    if header.trim().is_empty() {
        return vec![("*/*".to_owned(), Range::default())];
    }
    let mut ranges: Vec<(f32, (String, Range))> = Vec::new();
    for part in header.split(',') {
        let mut pieces = part.split(';').map(str::trim);
        let media_type = pieces.next().unwrap_or_default().to_ascii_lowercase();
        let (mut quality, mut range) = (1.0, Range::default());
        for (key, value) in pieces.filter_map(|piece| piece.split_once('=')) {
            let value = value.trim_matches('"').to_owned();
            match key.trim() {
                "as" => range.kind = value,
                "g" => range.group = value,
                "v" => range.version = value,
                "profile" => range.profile = value,
                "q" => quality = value.parse().unwrap_or(0.0),
                _ => {}
            }
        }
        if quality > 0.0 {
            ranges.push((quality, (media_type, range)));
        }
    }
    ranges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    ranges.into_iter().map(|(_, range)| range).collect()
}

/// The first of the representations of objects the caller lists that is served.
pub(crate) fn shape(header: &str) -> Result<Shape, Status> {
    for range in ranges(header) {
        let version = matches!(range.version.as_str(), "v1" | "v1beta1");
        match range.kind.as_str() {
            "" => return Ok(Shape::Whole),
            "Table" if range.group == "meta.k8s.io" && version => return Ok(Shape::Table(range.version)),
            "PartialObjectMetadata" | "PartialObjectMetadataList"
                if range.group == "meta.k8s.io" && version =>
            {
                return Ok(Shape::Metadata(range.version));
            }
            _ => {}
        }
    }
    Err(not_acceptable())
}

/// 406: the caller takes nothing that is served.
pub(crate) fn not_acceptable() -> Status {
    Status::new(406, "NotAcceptable", "only the following media types are accepted: application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_gets_tables_and_controllers_whole_objects() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(shape(kubectl), Ok(Shape::Table("v1".into())));
        assert_eq!(shape("application/vnd.kubernetes.protobuf,application/json"), Ok(Shape::Whole));
        assert_eq!(
            shape("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
            Ok(Shape::Metadata("v1".into()))
        );
        assert_eq!(shape(""), Ok(Shape::Whole));
        assert_eq!(shape("*/*"), Ok(Shape::Whole));
    }

    #[test]
    fn what_is_not_served_is_not_acceptable() {
        for header in
            ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Pizza;g=x;v=v1"]
        {
            assert_eq!(shape(header).expect_err("refused").code, 406, "{header}");
        }
    }
}
