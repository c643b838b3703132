// Small helpers for all modules.

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Return a new element with properties and children (nodes or texts). */
export function make(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, dataset ?? {});
  element.append(...children);
  return element;
}

/** Return an error's message. */
export function said(error) {
  return error?.message || String(error);
}
