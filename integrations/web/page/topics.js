// Topic patterns: tokens separated by dots; `*` matches one token, `>` at the end one or more.
// `*` alone matches everything, including events without a topic.

/** Return the problem of a pattern, or null. */
export function patternProblem(pattern) {
  const tokens = pattern.split(".");
  if (tokens.includes("")) return "The pattern has an empty part.";
  if (tokens.slice(0, -1).includes(">")) return "> is allowed only at the end of a pattern.";
  return null;
}

export function matches(pattern, topic) {
  if (pattern === "*") return true;
  if (topic === null) return false;
  const patternTokens = pattern.split(".");
  const tokens = topic.split(".");
  if (patternTokens.at(-1) === ">") {
    patternTokens.pop();
    if (tokens.length <= patternTokens.length) return false;
  } else if (tokens.length !== patternTokens.length) {
    return false;
  }
  return patternTokens.every((token, index) => token === "*" || token === tokens[index]);
}
