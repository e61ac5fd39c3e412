//! Strategic merge patches as a real server carried them out. `golden/strategic.json` was recorded from kube-apiserver
//! 1.37.2: a stored Deployment and, for each patch, what it became (as a dry run) or why it was refused.

use hansa_machinery::{
    defaults,
    kubernetes::KUBERNETES,
    strategic,
    structural::{self, Prune},
};
use serde_json::Value;

#[test]
fn patches_are_carried_out_as_kubernetes_does() {
    let golden: Value = serde_json::from_str(include_str!("golden/strategic.json")).unwrap();
    let schema = KUBERNETES.schema("apps", "Deployment").unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let (live, patch) = (&golden["object"], &case["patch"]);
        let patched =
            strategic::apply(Some(&schema), live, patch).map_err(|error| error.message).and_then(|object| {
                match structural::decode_errors(&schema, &object).into_iter().next() {
                    Some(error) => Err(error),
                    None => Ok(object),
                }
            });
        if case.get("code").is_some() {
            assert!(patched.is_err(), "{patch} is refused: {}", case["message"]);
            continue;
        }
        let mut object = patched.unwrap_or_else(|error| panic!("{patch}: {error}"));
        structural::prune(&schema, &mut object, Prune::RESOURCE);
        defaults::apply("apps", "Deployment", &mut object);
        defaults::prepare_update("apps", "Deployment", "", &mut object, live);
        assert_eq!(object["spec"], case["spec"], "{patch}");
        for key in ["labels", "annotations", "finalizers", "generation"] {
            assert_eq!(
                object["metadata"].get(key).unwrap_or(&Value::Null),
                &case["metadata"][key],
                "{patch}: {key}"
            );
        }
    }
}
