//! One CEL expression that is true or not of a few objects: the match conditions of admission webhooks. Compiled once and
//! bounded as the [rules of CRDs](super::expressions) are.

use std::{collections::HashMap, fmt, sync::Arc};

use kube_cel::{
    KubeCelExt,
    cel::{
        Context, Program,
        objects::{Key, Map, Value as Cel},
    },
};
use serde_json::Value;

use super::expressions::{BUDGET, longest, measure, with_deep_stack};
use crate::schema::MAX_DEPTH;

/// A compiled expression.
pub struct Condition {
    program: Program,
    /// How deep loops nest.
    loops: u32,
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condition").field("loops", &self.loops).finish_non_exhaustive()
    }
}

impl Condition {
    /// Compiles an expression over `variables`.
    ///
    /// # Errors
    /// When it does not compile, is too large, or names the variable `authorizer`, for which there is nothing here.
    pub fn compile(expression: &str) -> Result<Self, String> {
        let loops = measure(expression)?;
        let program = with_deep_stack(|| Program::compile(expression).map_err(|errors| errors.to_string()))?;
        let program = program.map_err(|why| format!("compilation failed: {}", why.trim()))?;
        if program.references().has_variable("authorizer") {
            return Err("compilation failed: this server has no authorizer in expressions".to_owned());
        }
        Ok(Self { program, loops })
    }

    /// Whether the expression is true with these variables.
    ///
    /// # Errors
    /// When it cannot be evaluated, is neither true nor false, or would take too long.
    pub fn holds(&self, variables: &[(&str, &Value)]) -> Result<bool, String> {
        let longest = variables.iter().map(|(_, value)| longest(value, 0)).fold(0, u64::max);
        if (longest + 1).saturating_pow(self.loops).saturating_add(longest) > BUDGET {
            return Err("validation failed due to running out of cost budget".to_owned());
        }
        let mut context = Context::default().with_all();
        for (name, value) in variables {
            context.add_variable_from_value(*name, cel(value, 0));
        }
        match self.program.execute(&context) {
            Ok(Cel::Bool(holds)) => Ok(holds),
            Ok(_) => Err("the expression is neither true nor false".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn cel(value: &Value, depth: usize) -> Cel {
    match value {
        _ if depth > 2 * MAX_DEPTH => Cel::Null,
        Value::Null => Cel::Null,
        Value::Bool(bool) => Cel::Bool(*bool),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Cel::Int(integer),
            (None, Some(integer)) => Cel::UInt(integer),
            (None, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(|item| cel(item, depth + 1)).collect())),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (Key::String(Arc::new(key.clone())), cel(value, depth + 1)));
            Cel::Map(Map { map: Arc::new(members.collect::<HashMap<_, _>>()) })
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(expression: &str) -> Result<bool, String> {
        let object =
            json!({"metadata": {"name": "a", "labels": {"b": "c"}}, "spec": {"n": 3, "list": [1, 2]}});
        let request = json!({"operation": "CREATE", "userInfo": {"groups": ["system:nodes"]}});
        let variables = [("object", &object), ("oldObject", &Value::Null), ("request", &request)];
        Condition::compile(expression)?.holds(&variables)
    }

    #[test]
    fn a_condition_looks_at_the_object_and_the_request() {
        for (expression, expected) in [
            ("object.metadata.name == 'a' && object.spec.n > 2", true),
            ("has(object.metadata.labels) && 'b' in object.metadata.labels", true),
            ("!('system:nodes' in request.userInfo.groups)", false),
            ("oldObject == null", true),
            ("object.spec.list.all(x, x < 2)", false),
        ] {
            assert_eq!(holds(expression), Ok(expected), "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_decided_is_an_error() {
        for expression in [
            "object.absent.name == 'a'",
            "object.spec.n",
            "object.spec.n >",
            "authorizer.x()",
            "unknown == 1",
        ] {
            assert!(holds(expression).is_err(), "{expression}");
        }
        let long: Value = (0..2000).collect();
        let loops = Condition::compile("object.all(x, object.all(y, x != y || true))").expect("compiles");
        assert!(loops.holds(&[("object", &long)]).is_err(), "too many steps");
    }

    #[test]
    fn a_condition_is_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Condition>();
    }
}
