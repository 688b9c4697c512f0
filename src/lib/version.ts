// Versions that the agent reports to docker clients and to managers.

export const apiVersion = '1.50';
export const minApiVersion = '1.24';
export const engineVersion = '28.2.2-skein';
