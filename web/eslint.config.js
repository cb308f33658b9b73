import hooks from "eslint-plugin-react-hooks";
import tseslint from "typescript-eslint";

// What comes from jobs is a stranger's text: it must never be able to become markup or code.
const sinks = ["innerHTML", "outerHTML", "srcdoc", "dangerouslySetInnerHTML"];
const noSinks = [
  ...sinks.flatMap((name) => [
    { selector: `MemberExpression[property.name="${name}"]`, message: `${name} makes markup out of text.` },
    { selector: `MemberExpression[property.value="${name}"]`, message: `${name} makes markup out of text.` },
    { selector: `JSXAttribute[name.name="${name}"]`, message: `${name} makes markup out of text.` },
    { selector: `Property[key.name="${name}"], Property[key.value="${name}"]`, message: `${name} makes markup out of text.` },
  ]),
  {
    selector: "CallExpression[callee.property.name=/^(insertAdjacentHTML|setHTMLUnsafe|createContextualFragment|parseFromString|write|writeln)$/]",
    message: "It makes markup out of text.",
  },
  { selector: 'NewExpression[callee.name="DOMParser"]', message: "It makes markup out of text." },
  { selector: 'JSXAttribute[name.name=/^(href|src|action|formAction)$/] Literal[value=/^\\s*javascript:/i]', message: "It runs text as code." },
  { selector: 'CallExpression[callee.property.name="setAttribute"] > Literal[value=/^on/i]', message: "It runs text as code." },
];

export default tseslint.config(
  { ignores: ["dist", ".build", ".test-build", "src/api/schema.d.ts", "src/early.js", "tools", "e2e", "eslint.config.js", "vite.config.ts", "test"] },
  ...tseslint.configs.strictTypeChecked,
  {
    files: ["src/**/*.{ts,tsx}"],
    languageOptions: { parserOptions: { project: "./tsconfig.json", tsconfigRootDir: import.meta.dirname } },
    plugins: { "react-hooks": hooks },
    rules: {
      ...hooks.configs.recommended.rules,
      "no-eval": "error",
      "no-implied-eval": "off",
      "@typescript-eslint/no-implied-eval": "error",
      "no-new-func": "error",
      "no-restricted-syntax": ["error", ...noSinks],
      "no-restricted-globals": ["error", { name: "WebSocket", message: "Components see no socket: src/store/live.ts has it." }],
      eqeqeq: "error",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/no-unnecessary-condition": "off", // the wire may say less than its types
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
    },
  },
  {
    // The stream is tested against a server of its own, and compiled by itself.
    files: ["src/stream/**"],
    rules: {
      "@typescript-eslint/no-non-null-assertion": "off", "no-restricted-globals": "off",
      "@typescript-eslint/restrict-template-expressions": "off", "@typescript-eslint/no-invalid-void-type": "off",
      "@typescript-eslint/no-misused-promises": "off", "@typescript-eslint/await-thenable": "off",
    },
  },
);
