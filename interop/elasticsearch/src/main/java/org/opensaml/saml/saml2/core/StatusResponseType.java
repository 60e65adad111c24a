package org.opensaml.saml.saml2.core;

/**
 * Placeholder for a class of single sign-on, which is not in Maven Central.
 *
 * <p>Elasticsearch's security looks at the signatures of all its actions when it starts, also of
 * those that are not called here.
 */
public interface StatusResponseType {}
